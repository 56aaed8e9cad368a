"""Ways of running a training step in `bench.train`, their times, and their memory. Stubs take the place of a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.train import measure, timing
from bench.train.losses import Loss
from bench.train.models import MODELS, Size
from bench.train.timing import TOGETHER, Ready, planned, timed
from bench.train.training import BEFORE, MOMENTUM, Training, compiled, eager, graphed, warm

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LOCAL = MODELS["local"]


def one_weight() -> Training:
    """Return the training of one weight of 1, whose loss is the square of weight times input. The rate is 0.1."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    loss = Loss(network, lambda outputs, targets: (outputs * targets).square().sum())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=MOMENTUM)
    return Training([loss], [optimizer], torch.autocast("cpu", enabled=False), 0)


def test_a_step_is_sgd_with_momentum() -> None:
    """The gradient is 2 * weight. Weights: 1, 1 - 0.2 = 0.8, 0.8 - 0.1 * (1.6 + 0.9 * 2) = 0.46."""
    trained, one = one_weight(), torch.ones(1, 1)
    losses = [trained.step(one, one)[0].item() for _ in range(3)]
    assert losses == pytest.approx([1.0, 0.64, 0.46**2])


def test_compiled_losses_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []

    def fake_compile(loss: nn.Module, dynamic: bool) -> Callable[..., Tensor]:
        def run(*batch: Tensor) -> Tensor:
            calls.append(loss)
            value: Tensor = loss(*batch)
            return value

        return run

    monkeypatch.setattr(torch, "compile", fake_compile)
    trained = one_weight()
    (loss,) = trained.losses
    step = compiled(trained, (torch.ones(1, 1), torch.ones(1, 1)), CPU)
    assert calls == [loss] * 2
    step()
    assert calls == [loss] * 3


class FakeCuda:
    """Functions of torch.cuda that note their calls in `log`. A graph notes how many steps it captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: list[Any], broken: bool = False) -> None:
        self.log: list[str] = []
        log, self.broken = self.log, broken

        class Stream:
            def __init__(self, name: Any) -> None:
                self.name = name

            def wait_stream(self, other: "Stream") -> None:
                log.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self) -> None:
                log.append("replay")

        @contextmanager
        def within(stream: Stream) -> Iterator[None]:
            log.append(f"on {stream.name}")
            yield
            log.append(f"{len(steps)} steps")

        @contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            log.append("capture")
            yield
            if broken:
                raise RuntimeError("operation not permitted when stream is capturing")
            log.append(f"{len(steps)} steps")

        fakes = dict(Stream=lambda device: Stream("side"), current_stream=lambda device: Stream("main"))
        fakes |= dict(stream=within, graph=capture, CUDAGraph=Graph, synchronize=lambda device: log.append("wait"))
        fakes["reset_peak_memory_stats"] = lambda device: log.append("reset")
        fakes["set_stream"] = lambda stream: log.append(f"back on {stream.name}")
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)


class Counting:
    """A training that counts its steps, whose loss is their number."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def step(self, *batch: Tensor) -> list[Tensor]:
        self.steps.append(batch)
        return [torch.tensor(len(self.steps))]


def test_a_graph_is_captured_after_steps_on_a_side_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = Counting()
    cuda, batch = FakeCuda(monkeypatch, trained.steps), (torch.ones(1),)
    replay = graphed(trained, batch, GPU)
    before = ["side waits for main", "on side", "wait", "reset", f"{BEFORE} steps", "main waits for side"]
    assert cuda.log == [*before, "capture", f"{BEFORE + 1} steps"]
    assert [loss.item() for loss in replay()] == [BEFORE + 1]
    assert (cuda.log[-1], len(trained.steps)) == ("replay", BEFORE + 1)


def test_a_capture_that_fails_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = Counting()
    cuda = FakeCuda(monkeypatch, trained.steps, broken=True)
    with pytest.raises(RuntimeError, match="not permitted"):
        graphed(trained, (), GPU)
    assert cuda.log[-1] == "back on main"


def test_the_peak_counts_from_after_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = Counting()
    cuda = FakeCuda(monkeypatch, trained.steps)
    eager(trained, (), GPU)
    assert (cuda.log, len(trained.steps)) == (["wait", "reset"], BEFORE + 1)
    warm(trained.step, CPU)
    assert (cuda.log, len(trained.steps)) == (["wait", "reset"], BEFORE + 2)


class Event:
    """A CUDA event of a GPU that takes 2 ms for whatever lies between two events."""

    def __init__(self, enable_timing: bool) -> None: ...

    def record(self) -> None: ...

    def elapsed_time(self, end: "Event") -> float:
        return 2.0


def test_steps_are_timed_in_turns_and_several_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says that a step of torch takes 20 ms, and one of triton 120 ms."""
    now = fake_time(monkeypatch)
    order: list[str] = []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            now[0] += seconds
            order.append(name)

        return run

    ready = {"torch": Ready(step("torch", 0.02), 3, 2), "triton": Ready(step("triton", 0.12), 2, 1)}
    found = timed(ready, GPU, batch=8)
    assert order == ["torch", "torch", "triton", "triton", "torch", "torch", "torch", "torch"]
    theirs, mine = found["torch"], found["triton"]
    assert [row["wall_us"]["runs"] for row in (theirs, mine)] == [3, 2]
    assert (theirs["step_us"]["median"], theirs["wall_us"]["median"]) == (1000.0, pytest.approx(20_000.0))
    assert (mine["step_us"]["median"], mine["wall_us"]["median"]) == (2000.0, pytest.approx(120_000.0))
    assert [row["images_per_second"] for row in (theirs, mine)] == [400.0, 66.67]
    assert [row["together"] for row in (theirs, mine)] == [2, 1]


def fake_time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the GPU events and the process a clock. Return a list whose number is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "runs", "together"), [(0.001, 50, TOGETHER), (0.02, 15, TOGETHER), (0.09, 5, 3), (2.0, 5, 1)]
)
def test_how_often_steps_are_timed(seconds: float, runs: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs take about a second and a half, but there are at least five."""
    now = fake_time(monkeypatch)

    def step() -> None:
        now[0] += seconds

    assert planned(step, GPU) == Ready(step, runs, together)
    assert planned(step, CPU) == Ready(step, 2, 1)


def test_a_step_that_fails_while_timed_lets_the_other_go_on() -> None:
    calls: list[None] = []

    def broken() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory\nmore")

    found = timed({"torch": Ready(lambda: None, 2, 1), "triton": Ready(broken, 2, 1)}, CPU, batch=1)
    assert found["triton"] == {"status": "failed", "reason": "out of memory"}
    assert found["torch"]["wall_us"]["runs"] == 2


def test_memory_is_that_of_one_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the step 100 bytes are allocated, those of the other implementation, and at most 160 within it."""
    trained = Counting()
    monkeypatch.setattr(Training, "of", lambda *arguments, **named: trained)
    trained.precompile, trained.converted = lambda batch: None, 7  # type: ignore[attr-defined]
    trained.losses = []  # type: ignore[attr-defined]
    FakeCuda(monkeypatch, trained.steps)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 160)
    monkeypatch.setattr(measure, "placed", lambda batch, device: batch)
    monkeypatch.setattr(measure, "planned", lambda step, device: Ready(step, 1, 1))
    model = replace(LOCAL, full=Size(2, (1, 8, 8), 4))
    _, found, gradients = measure.ready(model, "eager", "triton", GPU)
    assert gradients == []
    losses = {"first_losses": [1], "later_losses": [BEFORE + 3]}
    assert found == {"converted": 7, "peak_bytes": 60} | losses
