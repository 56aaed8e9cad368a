"""`tritonconv.warmup` compiles the kernels that a training step launches, and Triton then finds them in its cache."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations, prune

import tritonconv
from tests.support.processes import python
from tritonconv import runtime
from tritonconv.launch import start
from tritonconv.launch.plan import Plan

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def model() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        tritonconv.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        tritonconv.Conv2d(16, 8, 3, bias=False, stride=2),
        tritonconv.ConvTranspose2d(8, 3, 4, stride=2),
    )


def small() -> torch.nn.Sequential:
    """Return a model with few kernels to compile."""
    return torch.nn.Sequential(tritonconv.Conv2d(3, 8, 3), tritonconv.ConvTranspose2d(8, 3, 3))


def test_the_operators_of_a_step() -> None:
    """A step has forward and backward, the bias's gradient together with the weight's, and no gradient of the image."""
    from tritonconv.tools.warmup import step_calls

    network, image = model(), torch.randn(2, 3, 9, 9)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = [call.name for call in step_calls(network, (image,))]
    assert names[:3] == ["fprop", "fprop", "dgrad"]
    # The transposed layer's bias belongs to the image side, so torch sums its gradient.
    assert sorted(names[3:]) == ["dgrad", "fprop", "wgrad", "wgrad", "wgrad_with_bias"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_variants_are_those_of_a_real_step(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    from tritonconv.tools.warmup import launches_of, step_calls

    network, image = model().to(device), torch.randn(2, 3, 9, 9, device=device)
    foreseen = {each.variant for call in step_calls(network, (image,)) for each in launches_of(call)}
    launched = set()
    start_kernels = start.start_kernels

    def noted(plan: Plan) -> list[Any]:
        launched.update(each.variant for each in plan.launches)
        return start_kernels(plan)

    monkeypatch.setattr(start, "start_kernels", noted)
    network(image).square().sum().backward()
    assert launched == foreseen
    names = {name.replace("_tma", "") for name, *_ in launched}
    assert names == {"fprop_kernel", "dgrad_kernel", "wgrad_kernel", "sum_partials_kernel"}


class Stateful(torch.nn.Module):
    """A model that keeps its outputs, counts its calls, and holds tensors that are not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.scale, self.seen, self.calls = model(), torch.ones(1), [], 0

    def forward(self, image: torch.Tensor, *, gain: float) -> object:
        self.calls += 1
        self.seen.append(self.network(image) * self.scale.mul_(2) * gain)
        return SimpleNamespace(result=self.seen[-1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile
@pytest.mark.usefixtures("on_reference")
def test_the_model_stays_as_it_is() -> None:
    """warmup leaves alone the model's tensors, its Python state and autocast's cache.

    The model is compiled, has pruned and parametrized layers, and returns its output in an object.
    """
    from tritonconv.tools.warmup import step_calls

    stateful, image = Stateful(), torch.randn(2, 3, 9, 9)
    prune.l1_unstructured(stateful.network[0], "weight", 0.5)
    parametrizations.weight_norm(stateful.network[3])
    before = {name: tensor.clone() for name, tensor in stateful.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        names = [call.name for call in step_calls(torch.compile(stateful), (image,), {"gain": 1.5})]
        assert len(names) == 8
        assert all(torch.equal(t, before[name]) for name, t in stateful.state_dict().items())
        result = stateful(image, gain=1.5).result
    assert type(result) is torch.Tensor
    assert (stateful.calls, stateful.scale.item(), len(stateful.seen)) == (1, 2.0, 1)
    assert all(parameter.grad is None for parameter in stateful.parameters())
    result.sum().backward()
    step_calls(stateful, (image,), {"gain": 1.5})  # also when the model holds results that require gradients


def test_what_can_not_run_without_data_says_so() -> None:
    class Decides(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.mean() > 0 else -image

    refusal = "the model can not run on fake tensors, which have no data: .* If it has lazy layers, call it once"
    with pytest.raises(RuntimeError, match=refusal):
        tritonconv.warmup(Decides(), torch.randn(3))
    with pytest.raises(RuntimeError, match=refusal):
        tritonconv.warmup(tritonconv.LazyConv2d(3, 3), torch.randn(2, 3, 9, 9))
    with pytest.raises(TypeError, match=r"argument 'model' must be a torch\.nn\.Module, not function"):
        tritonconv.warmup(lambda x: x, torch.randn(3))  # type: ignore[arg-type]


def test_no_operator(capsys: pytest.CaptureFixture[str]) -> None:
    tritonconv.warmup(torch.nn.Linear(3, 3), torch.randn(2, 3))
    assert "nothing to compile, because the model uses no layer or function of tritonconv" in capsys.readouterr().out


@pytest.mark.skipif(not runtime.interpreted(), reason="on a GPU there is something to compile")
def test_it_says_when_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    tritonconv.warmup(model(), torch.randn(2, 3, 9, 9))
    said = "nothing to compile, because Triton's interpreter runs the 8 operator calls of a training step"
    assert said in capsys.readouterr().out


# Run in a process of its own, which compiles for a GPU that is not there.
SCRIPT = """
import sys, torch, tritonconv
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from tests.api.test_warmup import model, small
from tritonconv import dispatch, runtime
from tritonconv.gpu import Gpu
from tritonconv.tools import parallel_compile
from tritonconv.tools.parallel_compile import Elsewhere

parallel_compile.START_LIMIT = float("inf")
driver.set_active(Elsewhere(GPUTarget("cuda", 90, 32)))
runtime.gpu_of = lambda _: Gpu.of("sm_90", 132)
dispatch._why_not_device = lambda _: None
sys.executable = {python!r}
with torch.autocast("cpu", torch.bfloat16):
    tritonconv.warmup({network}(), torch.randn(2, 3, 9, 9), processes=2)
"""


def printed(tmp_path: Path, executable: str, cache: str = "cache", network: str = "small") -> str:
    """Run `SCRIPT` and return its output.

    `executable` runs the compiling processes. `cache` is Triton's cache folder below `tmp_path`.
    """
    (tmp_path / "random.py").write_text("raise RuntimeError('this is not the random of the standard library')")
    code = SCRIPT.format(python=executable, network=network)
    done = python("-P", "-c", code, cwd=tmp_path, TRITON_CACHE_DIR=str(tmp_path / cache))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("network", ["small", pytest.param("model", marks=pytest.mark.slow)])
def test_compiling_in_other_processes(network: str, tmp_path: Path) -> None:
    """This process finds all kernels in the cache, and so does the next run, whatever the others print."""
    noisy = tmp_path / "python"
    noise = "echo 7; echo 7 >&2; printf '\\377\\n'; printf '\\377\\n' >&2"
    noisy.write_text(f'#!/bin/sh\n{noise}\n{sys.executable} "$@"\nstatus=$?\n{noise}\nexit $status\n')
    noisy.chmod(0o755)
    first, second = (printed(tmp_path, str(noisy), network=network) for _ in range(2))
    assert "Warning" not in first + second
    assert re.search(r": ([1-9]\d*) compiled in 2 processes, 0 found in Triton's cache", first)
    assert re.search(r": 0 compiled in 2 processes, [1-9]\d* found in", second)


@pytest.mark.long
def test_processes_that_fail(tmp_path: Path) -> None:
    """If the compiling processes fail, this process warns and compiles instead."""
    output = printed(tmp_path, "/bin/false")
    assert output.count("UserWarning") == 1
    assert (
        "UserWarning: tritonconv.warmup: 2 of 2 processes that compile kernels failed. This process compiles" in output
    )
    assert re.search(r": 0 compiled in 2 processes, [1-9]\d* compiled in this process, 0 found in", output)


@pytest.mark.long
def test_a_cache_that_can_not_be_written(tmp_path: Path) -> None:
    """warmup warns and leaves compiling to the training step, which uses a temporary folder."""
    (tmp_path / "file").touch()
    output = printed(tmp_path, sys.executable, "file/cache")
    assert re.search(r"UserWarning: tritonconv.warmup: (\d+) of \1 kernels can not be compiled\.", output)
    assert re.search(r"The first error: \w+: NotADirector", output)
    assert re.search(r": 0 compiled in 2 processes, [1-9]\d* failed to compile, 0 found in Triton's cache", output)


# Of the three kernels with TMA, two take descriptors of the host: in wgrad, a line of pixels overhangs an edge.
DESCRIBED = """
described = Gpu.of("sm_90", 132).switched(host_descriptors=True)
runtime.gpu_of = lambda _: described
layer = tritonconv.Conv2d(64, 64, 3, padding=1)
images = torch.randn(2, 64, 9, 9, requires_grad=True).contiguous(memory_format=torch.channels_last)
with torch.autocast("cpu", torch.bfloat16):
    tritonconv.warmup(layer, images, processes=2)
    kernels = [each for call in warmup.step_calls(layer, (images,)) for each in warmup.launches_of(call)]
print([each.kernel.__name__ for each in kernels if each.in_triton() != each.arguments])
"""


@pytest.mark.long
def test_kernels_with_descriptors_of_the_host(tmp_path: Path) -> None:
    setup, _ = SCRIPT.format(python=sys.executable, network="small").split("with torch.autocast")
    code = f"{setup}from tritonconv.tools import warmup\n{DESCRIBED}"
    done = python("-c", code, TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "need 4 kernels: 4 compiled in 2 processes, 0 found in" in done.stdout
    assert done.stdout.endswith("['fprop_tma_kernel', 'dgrad_tma_kernel']\n")
