"""Which implementation runs a call, and which reasons and warnings the user gets."""

import pickle
import threading
import warnings
from dataclasses import replace

import pytest
import torch

import tritonconv
from tests.support.gpus import A100, H100, MI300
from tests.support.plans import call_of, meta_factors
from tests.support.processes import ran
from tritonconv import dispatch, fallback_warning, runtime
from tritonconv.call import Call
from tritonconv.dispatch import choose, why_not
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import failures, plan_cache
from tritonconv.launch.failures import NoKernel, NoTriton
from tritonconv.operators.decision import decide

pytestmark = pytest.mark.gpu

GEOMETRY = ConvGeometry(B=1, C=4, H=5, W=5, F=6, P=3, Q=3, R=3, S=3)
torch.manual_seed(0)
x, w = torch.randn(1, 4, 5, 5), torch.randn(6, 4, 3, 3)


def call_on(
    operator: Operator = "fprop",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    implementation: str = "auto",
    geometry: ConvGeometry = GEOMETRY,
) -> Call:
    """Return a call on `device`, with operands that have no data."""
    how = dict(implementation=implementation, device=torch.device(device))
    return call_of(operator, geometry, meta_factors(geometry, dtype), **how)


def test_the_reference_never_refuses() -> None:
    for dtype in (torch.float64, torch.complex64, torch.bfloat16):
        assert why_not("reference", call_on("wgrad", dtype, "meta")) is None


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not in float64" in str(why_not("triton", call_on(dtype=torch.float64)))
    assert "not on meta" in str(why_not("triton", call_on(device="meta")))
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    assert "TRITON_INTERPRET=1" in str(why_not("triton", call_on()))
    monkeypatch.setattr(runtime, "no_triton", lambda: "Triton is not installed")
    assert why_not("triton", call_on()) == "Triton is not installed"


def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    monkeypatch.setattr(runtime, "gpu_of", lambda _: Gpu.of("sm_75", 40))
    reason = "Triton has no tensor-core path for compute capability 7.5: the kernels need 8.0 or newer"
    assert why_not("triton", call_on(device="cuda")) == reason


@pytest.mark.parametrize("gpu", [A100, H100, MI300], ids=str)
def test_gpus_with_tensor_cores_are_not_refused(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """From compute capability 8.0 on, which is A100's, and on AMD GPUs, which have no compute capability."""
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    monkeypatch.setattr(runtime, "gpu_of", lambda _: gpu)
    assert why_not("triton", call_on(device="cuda")) is None


@pytest.mark.skipif(not runtime.interpreted(), reason="on a GPU machine the kernels are compiled, not interpreted")
def test_order_and_wishes() -> None:
    assert choose(call_on()) == ("triton", {})
    assert choose(call_on(implementation="reference")) == ("reference", {})
    chosen, reasons = choose(call_on(dtype=torch.float64))
    assert (chosen, list(reasons)) == ("reference", ["triton"])
    assert "not in float64" in reasons["triton"]
    assert choose(call_on("wgrad", implementation="triton")) == ("triton", {})
    for operator in OPERATORS:
        with pytest.raises(NotImplementedError, match=r"^triton: .*float64"):
            choose(call_on(operator, torch.float64, implementation="triton"))


def test_precedence() -> None:
    assert dispatch.requested(None) == "auto"
    with tritonconv.using("reference"):
        assert dispatch.requested(None) == "reference"
        assert dispatch.requested("triton") == "triton"
        with tritonconv.using("triton"):
            assert dispatch.requested(None) == "triton"
        assert dispatch.requested(None) == "reference"
    assert dispatch.requested(None) == "auto"


def test_using_ends_with_its_thread_and_with_an_error() -> None:
    seen = []
    with tritonconv.using("reference"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.requested(None)))
        thread.start()
        thread.join()
    assert seen == ["auto"]
    with pytest.raises(ZeroDivisionError), tritonconv.using("reference"):
        raise ZeroDivisionError
    assert dispatch.requested(None) == "auto"


def test_unknown_implementation() -> None:
    with pytest.raises(ValueError, match="must be one of 'auto', 'triton', 'reference', but got 'cudnn'"):
        tritonconv.conv2d(x, w, implementation="cudnn")
    with pytest.raises(ValueError, match="cudnn"), tritonconv.using("cudnn"):
        pass
    assert [dispatch.known(name) for name in ("auto", "triton", "reference")] == ["auto", "triton", "reference"]


def printed(code: str, **environment: str) -> str:
    """Return the output of `code` in a Python process of its own, or the last line of its error if it fails.

    `environment` has variables for the process.
    """
    done = ran(code, **environment)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


CALL = "import torch, tritonconv; print(tritonconv.explain(tritonconv.conv2d, torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2){})[0].implementation)"  # noqa: E501


def test_environment_variable() -> None:
    assert printed(CALL.format(""), TRITON_INTERPRET="1") == "triton"
    assert printed(CALL.format(""), TRITON_INTERPRET="1", TRITONCONV_IMPLEMENTATION="reference") == "reference"
    assert "but got 'cudnn'" in printed(CALL.format(""), TRITONCONV_IMPLEMENTATION="cudnn")


def test_on_the_cpu_triton_needs_the_interpreter() -> None:
    assert printed(CALL.format("")) == "reference"
    refused = printed(CALL.format(", implementation='triton'"))
    assert refused.startswith("NotImplementedError: triton: the tensors are on the CPU (TRITON_INTERPRET=1")


def test_importing_touches_no_gpu() -> None:
    """Importing does not initialise CUDA, and works without Triton."""
    assert printed("import torch, tritonconv; print(torch.cuda.is_initialized())") == "False"
    assert printed("import sys; sys.modules['triton'] = None; " + CALL.format("")) == "reference"


def test_backward_uses_the_wish_of_the_forward() -> None:
    operands = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    with tritonconv.using("reference"):
        y = tritonconv.conv2d(*operands)
    ops: list[tuple[str, str]] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.namespace == "tritonconv":
                ops.append((func._opname, args[-1].rpartition("=")[2]))
            return func(*args, **(kwargs or {}))

    with Spy():
        y.sum().backward()
    assert sorted(ops) == [("dgrad", "reference"), ("wgrad", "reference")]


def test_gradients_not_asked_for_are_not_computed() -> None:
    weight = w.clone().requires_grad_()
    with tritonconv.using("reference"):
        y = tritonconv.conv2d(x, weight)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert list(counter.get_flop_counts()["Global"]) == [torch.ops.tritonconv.wgrad]


@pytest.mark.parametrize("requires", range(8))
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_only_gradients_that_are_required(name: str, requires: int) -> None:
    operands = [t.clone().requires_grad_(bool(requires >> i & 1)) for i, t in enumerate((x, w, torch.randn(6)))]
    if name == "conv_transpose2d":
        operands[1] = operands[1].detach().transpose(0, 1).clone().requires_grad_(bool(requires & 2))
    with tritonconv.using("reference"):
        y = getattr(tritonconv, name)(*operands)
    expected = set()
    if requires & 1:
        expected.add("dgrad" if name == "conv2d" else "fprop")
    if requires & 2:
        expected.add("wgrad_with_bias" if name == "conv2d" and requires & 4 else "wgrad")
    assert y.requires_grad == bool(requires)
    if requires:
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            y.sum().backward()
        assert {op._qualified_op_name.split("::")[1] for op in counter.get_flop_counts().get("Global", {})} == expected
    assert [t.grad is not None for t in operands] == [bool(requires >> i & 1) for i in range(3)]


def test_weight_and_bias_are_found_in_one_pass() -> None:
    layer = tritonconv.Conv2d(4, 6, 3)
    with tritonconv.using("reference"):
        y = layer(x)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert list(counter.get_flop_counts()["Global"]) == [torch.ops.tritonconv.wgrad_with_bias]


def test_layers_carry_their_implementation() -> None:
    layer = tritonconv.Conv2d(4, 6, 3)
    layer.implementation = "reference"
    with tritonconv.using("triton"):
        for copied in (layer, pickle.loads(pickle.dumps(layer))):
            assert {choice.implementation for choice in tritonconv.explain(copied, x)} == {"reference"}
    plain = torch.nn.Conv2d(4, 6, 3)
    plain.__class__ = tritonconv.Conv2d
    assert plain.implementation is None


def test_a_kernel_that_failed_is_given_up_for_such_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_why_not_device", lambda _: None)
    shared = call_on("dgrad", torch.float16)
    local = call_on("dgrad", torch.float16, geometry=replace(GEOMETRY, varies="p q"))
    failures.add(NoKernel.of(local), "it does not compile")
    assert why_not("triton", local) == "it does not compile"
    assert why_not("triton", shared) is None
    failures.add(NoTriton(local.device), "nothing does")
    assert why_not("triton", shared) == "nothing does"
    failures.remove(NoTriton(local.device))
    assert why_not("triton", shared) is None


def test_a_failure_empties_the_plan_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan_cache.plans.entries, "a key", "a plan")
    failures.add(NoTriton(torch.device("cpu")), "nothing does")
    assert not plan_cache.plans.entries


def test_fallback_on_a_gpu_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_why_not_device", lambda _: None)
    fallback_warning._said.clear()
    on_gpu = call_on("dgrad", torch.float64, device="cuda")
    with pytest.warns(
        tritonconv.FallbackWarning,
        match=r"dgrad runs as the reference \(plain PyTorch\), because the kernels compute in float16",
    ):
        decide(on_gpu).warn_of_fallback()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decide(on_gpu).warn_of_fallback()
        fallback_warning._said.clear()
        asked = call_on("dgrad", torch.float64, device="cuda", implementation="reference")
        decide(asked).warn_of_fallback()  # no warning, because the call asked for the reference
