"""The order of calls when a GPU is timed, on a fake GPU that only logs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from bench.run import timing

CPU = torch.device("cpu")


class Log(list[str]):
    """A fake torch.cuda that logs its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing = False
        self.clock = 0.0
        self.cold = False
        self.refuses: Exception | None = None

    def event(self, **_: Any) -> Any:
        log = self

        class Event:
            def record(self) -> None:
                log.append("event")
                self.time = log.clock

            def synchronize(self) -> None: ...

            def elapsed_time(self, end: Any) -> float:
                elapsed: float = end.time - self.time
                return elapsed

        return Event()

    def graph_of(self) -> Any:
        log = self

        class Graph:
            def replay(self) -> None:
                log.append("replay")
                log.clock += 2.0 if log.cold else 0.5  # milliseconds
                log.cold = False

        return Graph()

    @contextmanager
    def capture(self, graph: Any) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False
        if self.refuses:
            self.append("left on the capture stream")
            raise self.refuses

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        yield


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A fake torch.cuda in the place of the real one.

    Reading a tensor of `COLD` bytes cools the L2 cache and is logged as "flush". Writing to it is logged as "dirty".
    """
    log = Log()

    class Stream:
        def __init__(self, *_: Any) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

    replaced = {
        "Event": log.event,
        "CUDAGraph": log.graph_of,
        "graph": log.capture,
        "stream": log.on_stream,
        "Stream": Stream,
        "current_stream": Stream,
        "synchronize": lambda *_: log.append("wait"),
        "set_stream": lambda _: log.append("back"),
        "memory_allocated": lambda *_: 1000,
        "max_memory_allocated": lambda *_: 1900,
        "reset_peak_memory_stats": lambda *_: log.append("reset"),
        "clock_rate": lambda _: 1500 + len(log),
        "power_draw": lambda _: 350_000,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    plain = torch.sum

    def total(tensor: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        assert tensor.nbytes == timing.COLD
        log.append("dirty" if tensor._version else "flush")
        log.cold = True
        return plain(tensor, *rest, **more)

    monkeypatch.setattr(timing, "COLD", 1 << 10)
    monkeypatch.setattr(torch, "sum", total)
    return log


def test_each_turn_replays_cold_and_then_warm(log: Log) -> None:
    """The cache is cooled by reading. The events lie around the cold replay, and behind the warm one."""

    def call() -> tuple[torch.Tensor, ...]:
        log.append("captured" if log.capturing else "called")
        return (torch.ones(50),)

    times = timing.on_device({"a": call, "b": call}, CPU, budget=0.0)
    assert log.count("captured") == 2
    # The first call comes before the reset, so memory that it allocates for good does not count.
    assert [each for each in log if each != "wait"][:3] == ["called", "reset", "called"]
    first = log.index("flush")
    assert "called" not in log[first:]
    assert log[first:] == ["flush", "event", "replay", "event", "replay", "event"] * 20
    assert "wait" in log[log.index("reset") : log.index("captured")]
    for name in ("a", "b"):
        assert times[name].device == [2000.0] * 10  # microseconds
        assert times[name].warm == [500.0] * 10
        assert times[name].how == "graph"
        assert times[name].extra_bytes == 900 - 200  # the peak, without operands and without the result


def test_what_can_not_be_captured_is_called(log: Log) -> None:
    log.refuses = RuntimeError("operation not permitted when stream is capturing")

    def call() -> tuple[torch.Tensor, ...]:
        log.append("called")
        log.clock += 1.0
        return ()

    times = timing.on_device({"a": call}, CPU, budget=0.0)["a"]
    first = log.index("flush")
    left = log.index("left on the capture stream")
    assert log[left + 1] == "back"
    assert log[first:] == ["flush", "event", "called", "event"] * 10
    assert (times.how, times.device, times.warm) == ("events", [1000.0] * 10, [])


def test_clock_and_power_are_read_after_some_runs(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read after the 1st, 11th and 21st of 25 runs. Each run logs six entries before that."""
    monkeypatch.setattr(timing, "turns", lambda seconds, budget: [*seconds] * 25)
    times = timing.on_device({"a": lambda: ()}, CPU)["a"]
    begun = log.index("flush")
    assert [each.clock_mhz for each in times.sensed] == [1500 + begun + 6 * runs for runs in (1, 11, 21)]
    assert {each.watts for each in times.sensed} == {350.0}


def test_without_a_driver_that_tells_there_are_no_clocks(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: Any) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "clock_rate", missing)
    times = timing.on_device({"a": lambda: ()}, CPU, budget=0.0)["a"]
    assert (times.sensed, len(times.device)) == ([], 10)


def test_too_little_memory_is_no_reason_to_time_it_otherwise(log: Log) -> None:
    log.refuses = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        timing.on_device({"a": lambda: ()}, CPU, budget=0.0)


class Clock:
    """A fake module `time`: calls advance `now` by the time that they take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A fake clock in the place of the module `time` that `bench.run.timing` uses."""
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_eager_calls_are_timed_to_their_end(log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call keeps the host busy for 2 milliseconds, and the GPU for 5 more, which only a synchronization shows."""
    busy = [False]

    def wait(*_: Any) -> None:
        clock.now += 0.005 * busy[0]
        busy[0] = False

    def call() -> tuple[torch.Tensor, ...]:
        clock.now += 0.002
        busy[0] = True
        return ()

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(timing, "on_device", lambda calls, *_: {name: timing.Times() for name in calls})
    times = timing.side_by_side({"a": call}, torch.device("cuda"), budget=0.001)["a"]
    assert times.host == pytest.approx([2_000] * 10)
    assert times.wall == pytest.approx([7_000] * 10)


def test_without_a_gpu_there_are_walls_only(clock: Clock) -> None:
    """The results are those of the last run, so that they can be checked."""
    calls = []

    def call() -> tuple[torch.Tensor, ...]:
        clock.now += 0.002
        calls.append((torch.ones(1),))
        return calls[-1]

    times = timing.side_by_side({"a": call}, CPU, budget=0.001)["a"]
    assert times.results is calls[-1]
    assert times.device == times.host == []
    assert times.how == "wall"
    assert times.wall == pytest.approx([2_000] * 10)
