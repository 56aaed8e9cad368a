"""CUDA graphs of training steps: captured and replayed on a GPU, rehearsed and pretended without one."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support import cuda_graphs
from tests.support.cuda_graphs import CHECKS, REHEARSED, Problem, Step
from tests.support.processes import seen

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

ON_CPU = Problem("cpu", torch.float32, channels=4, size=4, overwritten=2**12)


@pytest.fixture(autouse=True)
def guarded_memory() -> Iterator[None]:
    """Use no guard bands, which keep the memory of graphs alive, and which graphs of `torch.compile` refuse."""
    yield


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a GPU")
@pytest.mark.parametrize("name", CHECKS)
def test_graphs_compute_what_eager_steps_compute(name: str) -> None:
    CHECKS[name]()


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
