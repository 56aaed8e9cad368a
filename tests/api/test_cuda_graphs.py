"""CUDA graphs of training steps: captured and replayed on a GPU, rehearsed and pretended without one."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.device.ways import switched
from tests.support import cuda_graphs
from tests.support.cuda_graphs import CHECKS, REHEARSED, Step
from tests.support.graph_problems import Problem
from tests.support.processes import seen

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

ON_CPU = Problem("cpu", torch.float32, channels=4, size=4, overwritten=2**12)


@pytest.fixture(autouse=True)
def guarded_memory() -> None:
    """Use no guard bands, which keep the memory of graphs alive, and which graphs of `torch.compile` refuse."""
    return


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a GPU")
@pytest.mark.parametrize("name", CHECKS)
def test_graphs_compute_what_eager_steps_compute(name: str) -> None:
    CHECKS[name]()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a GPU")
def test_graphs_keep_the_descriptors_that_the_host_has_made() -> None:
    """The host's descriptors are freed before the replays. On a GPU without TMA there are none."""
    with switched(host_descriptors=True):
        CHECKS["step_is_replayed"]()


def rehearsed(step: Step) -> tuple[Callable[[], None], list[Tensor]]:
    """Return what `cuda_graphs.captured` returns. Replays call the step."""
    results: list[Tensor] = []

    def replay() -> None:
        computed = step()
        for result, new in zip(results, computed, strict=bool(results)):
            result.copy_(new)
        results.extend(computed[len(results) :])

    return replay, results


def stale(step: Step) -> tuple[Callable[[], None], list[Tensor]]:
    """As `rehearsed`, but only the first replay computes something."""
    replay, results = rehearsed(step)
    return lambda: None if results else replay(), results


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch, on_reference: None) -> None:
    """Let the checks run on the CPU, by the reference, with eager calls in the place of graphs."""
    monkeypatch.setattr(cuda_graphs, "captured", rehearsed)
    monkeypatch.setattr(cuda_graphs, "on_side_stream", lambda work: work())
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda layer, _: layer)
    monkeypatch.setattr(torch, "compile", lambda model, mode: model)


@pytest.mark.parametrize("name", REHEARSED)
@pytest.mark.usefixtures("without_gpu")
def test_the_checks_pass_where_graphs_are_eager_calls(name: str) -> None:
    CHECKS[name](ON_CPU)


@pytest.mark.parametrize("name", ["step_is_replayed", "two_graphs_run_at_once", "first_step_is_captured_after_warmup"])
@pytest.mark.usefixtures("without_gpu")
def test_the_checks_fail_where_replays_compute_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "captured", stale)
    with pytest.raises(AssertionError, match=r"(replay|round) \d"):
        CHECKS[name](ON_CPU)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("name", "made"), [("graphed_callable_trains", "make_graphed_callables"), ("compiled_step_is_replayed", "compile")]
)
def test_the_checks_fail_where_a_graph_has_weights_of_its_own(
    name: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a graph would not see how training changes the weights."""

    class WithOwnWeights(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer = layer
            self.own = {name: each.detach().clone() for name, each in layer.named_parameters()}

        def forward(self, x: Tensor) -> Tensor:
            current = dict(self.layer.named_parameters())
            stale = {name: self.own[name] + (each - each.detach()) for name, each in current.items()}
            result: Tensor = torch.func.functional_call(self.layer, stale, (x,))
            return result

    where = torch if made == "compile" else torch.cuda
    monkeypatch.setattr(where, made, lambda layer, *_, **__: WithOwnWeights(layer))
    with pytest.raises(AssertionError, match=r"step \d: tensor 0 .* differs"):
        CHECKS[name](ON_CPU)


PRETENDED = """
import contextlib
from tests.support.triton_launchers import *
from tests.support.pretended_capture import *
from tritonconv.tools import parallel_compile
parallel_compile.compile_elsewhere = lambda *_: (0, [])
gpu, captured = install()

class Training:
    def __init__(self):
        layers = (
            tritonconv.Conv2d(64, 64, 1),
            torch.nn.ReLU(),
            tritonconv.ConvTranspose2d(64, 64, 1),
            tritonconv.Conv2d(64, 3, 1),
        )
        self.model = torch.nn.Sequential(*layers).half().to(memory_format=torch.channels_last)
        self.leaves = [*self.model.parameters()]
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.copy_(drawn(*leaf.shape))
        self.optimizer = torch.optim.SGD(self.leaves, lr=2**-14)
        self.x = drawn(1, 64, 4, 4).to(memory_format=torch.channels_last)
        self.gradient = drawn(1, 3, 4, 4).to(memory_format=torch.channels_last)
    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        y = self.model(self.x)
        y.backward(self.gradient)
        self.optimizer.step()
        return [y.detach(), *(each.grad for each in self.leaves)]
    def tensors(self):
        held = [self.x, self.gradient, *self.leaves]
        return held + [each.grad for each in self.leaves if each.grad is not None]

def eagerly(steps):
    other = Training()
    return [[each.clone() for each in other.step()] for _ in range(steps)]
"""

# The kernels of a step: three operators in forward, and six in backward, three of which start two kernels.
SUMMED = ["wgrad_kernel", "sum_partials_kernel"]
KERNELS = ["fprop_tma_kernel", "dgrad_tma_kernel", "fprop_kernel"]
KERNELS += [*SUMMED, "dgrad_kernel", *SUMMED, "fprop_tma_kernel", *SUMMED]
# The same with TMA descriptors that the host makes. They save so much time that two of the three wgrads use TMA.
BY_HOST = ["fprop_tma_kernel", "dgrad_tma_kernel", "fprop_kernel", *SUMMED, "dgrad_kernel"]
BY_HOST += ["wgrad_tma_kernel", "fprop_tma_kernel", "wgrad_tma_kernel", "sum_partials_kernel"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's disk cache for both tests of a pretended capture, which then compile each kernel once."""
    return tmp_path_factory.mktemp("cache")


def test_a_pretended_capture_asks_for_nothing_and_keeps_nothing(cache: Path) -> None:
    """Whole steps are captured: first after `warmup` alone, then after eager steps, and in both ways of starting.

    The last two captures use TMA descriptors that the host makes. In all others, programs build them.

    No kernel is compiled or loaded, no number is read on the host, and nothing is asked of torch.cuda. Kernels use the
    tensors of the step, and others that were allocated during the capture, of which none is kept. So they do not use
    the buffer of scratch memory, which stays as it is.
    """
    code = """
def captures(before, way, by_host=False):
    gpu.host_descriptors = by_host
    way()
    training = Training()
    expected = eagerly(before + 2)
    for _ in range(before):
        training.step()
    found = []
    for number in range(2):
        results = []
        def step():
            results.extend(training.step())
            return results
        found.append(observed(captured, step, training.tensors()))
        found[-1]["right"] = all(map(torch.equal, results, expected[before + number]))
        del results, step
    return found
def after_warmup():
    training = Training()
    with contextlib.redirect_stdout(None):
        tritonconv.warmup(training.model, training.x)
    return [observed(captured, training.step, training.tensors())]
observe(
    after_warmup,
    lambda: captures(2, direct),
    lambda: captures(2, public),
    lambda: captures(0, direct),
    lambda: captures(2, direct, by_host=True),
    lambda: captures(1, public, by_host=True),
)
"""
    found = seen(PRETENDED + code, cache)
    assert not [each for each in found["warnings"] if each.startswith("FallbackWarning")]
    warmed, *programs, by_launcher, by_triton = found["results"]
    expected = {"kernels": KERNELS, "asked": [], "of others": 0, "kept": 0, "buffers changed": False}
    assert warmed == [expected]
    assert programs == [[expected | {"right": True}] * 2] * 3
    assert by_launcher == by_triton == [expected | {"kernels": BY_HOST, "right": True}] * 2


def test_what_is_forbidden_in_a_pretended_capture_is_seen(cache: Path) -> None:
    """Otherwise the test above would show nothing."""
    code = """
training, held = Training(), []
training.step()
def asks():
    torch.cuda.current_stream()
def waits():
    training.x.sum().item()
def loads():
    tritonconv.conv2d(training.x.float(), training.leaves[0].float())
def keeps():
    held.append(torch.ones(8))
    return []
def shares():
    scratch.is_capturing["cpu"] = bool
    return training.step()
def replaces():
    scratch.is_capturing["cpu"] = bool
    scratch.scratch(torch.device("cpu"), "cpu", 2 * scratch.LEAST, 128, gpu.stream)
    return []
observe(*(lambda step=step: observed(captured, step, training.tensors()) for step in (
    asks, waits, loads, keeps, shares, replaces)))
"""
    asks, waits, loads, keeps, shares, replaces = seen(PRETENDED + code, cache)["results"]
    assert asks["asked"] == ["current_stream"]
    assert waits["asked"] == ["item"]
    assert loads["asked"] == ["build"]
    assert keeps["kept"] == 1
    assert (shares["of others"], shares["kernels"]) == (1, KERNELS)
    assert replaces["buffers changed"]
