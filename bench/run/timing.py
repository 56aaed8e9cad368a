"""Times calls side by side, in alternating order: device time, eager (wall) time and host time."""

import statistics
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bench.run import memory
from bench.run.memory import Computation

Name = TypeVar("Name", bound=Hashable)

# Bytes that are overwritten between two runs, so that the L2 cache is cold. This is several times the largest L2 cache.
COLD = 512 << 20
# Seconds that all runs of one call may take. FEWEST and MOST bound the number of runs.
BUDGET = 0.25
FEWEST, MOST = 10, 100
# A call that takes SLOW seconds or longer has at least FEWEST_OF_SLOW runs instead of FEWEST.
SLOW, FEWEST_OF_SLOW = 0.25, 5


@dataclass
class Times:
    """The times of one call in microseconds, one for each run.

    Attributes:
        device: How long the GPU took. Empty on a CPU.
        wall: From an eager call until its result is there.
        host: From an eager call until it returns. Empty on a CPU.
        extra_bytes: The peak of the memory that the call takes beside operands and results.
        how: How `device` was timed. "graph": replays of a CUDA graph. "events": eager calls between two events, with
            the gaps between kernels, because the call could not be captured. "wall": there was no GPU.
        results: The results of the last timed run: on the device, or on a CPU in eager mode.
    """

    device: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    extra_bytes: int | None = None
    how: str = "wall"
    results: Any = None


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, interpolated between the two nearest ranks."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 20th and the 80th percentile, rounded to nanoseconds, and the number of values.

    There must be at least one value, in microseconds.
    """
    named = {"median": statistics.median(values), "p20": quantile(values, 0.2), "p80": quantile(values, 0.8)}
    return {**{name: round(value, 3) for name, value in named.items()}, "runs": len(values)}


def side_by_side(
    computations: dict[Name, Computation], device: torch.device, budget: float = BUDGET
) -> dict[Name, Times]:
    """Return the times of each of `computations`, measured in turns.

    So if the machine gets slower meanwhile, it does so for all of them. All runs of one call take about `budget`
    seconds for the device time, and as long for the wall and host times (`turns`).
    """
    if device.type == "cuda":
        times = on_device(computations, device, budget)
    else:
        times = {
            name: Times(extra_bytes=memory.beside_results(*memory.on_cpu(computation)))
            for name, computation in computations.items()
        }
    _in_eager_mode(computations, times, device, budget)
    return times


def on_device(computations: dict[Name, Computation], device: torch.device, budget: float = BUDGET) -> dict[Name, Times]:
    """Return the device times of each of `computations`: replays of CUDA graphs, with a cold L2 cache, in turns."""
    times = {name: Times() for name in computations}
    replays = {}
    for name, computation in computations.items():
        replays[name], times[name].how, times[name].extra_bytes = captured(computation, device)
    cold = torch.empty(COLD, dtype=torch.uint8, device=device)
    for name in turns({name: _seconds(replay, device) for name, replay in replays.items()}, budget):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cold.zero_()  # takes long enough for the host to queue the replay and both events before it ends
        start.record()
        times[name].results = replays[name]()
        end.record()
        end.synchronize()
        times[name].device.append(1e3 * start.elapsed_time(end))
    return times


def captured(computation: Computation, device: torch.device) -> tuple[Computation, str, int]:
    """Capture `computation` in a CUDA graph.

    Return a function that replays the graph, "graph", and the peak of the memory that a call takes beside operands and
    results. If the call cannot be captured, return `computation` itself and "events" instead of the first two. Raise
    torch.OutOfMemoryError if memory does not suffice for the capture.
    """
    computation()
    extra = memory.beside_results(*memory.on_gpu(computation, device))
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            computation()
    torch.cuda.current_stream(device).wait_stream(side)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph):
            kept = computation()
    except torch.OutOfMemoryError:
        torch.cuda.set_stream(stream)
        raise
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own stream behind
        torch.cuda.synchronize(device)
        return computation, "events", extra

    def replay(kept: Any = kept) -> Any:
        graph.replay()
        return kept  # the tensors that the graph writes to

    return replay, "graph", extra


def _in_eager_mode(
    computations: dict[Name, Computation], times: dict[Name, Times], device: torch.device, budget: float
) -> None:
    """Add the wall times of eager calls to `times`. On a GPU add host times, on a CPU the results of the last run.

    A wall time ends when the call's result is there, a host time when the call returns.
    """
    for computation in computations.values():
        computation()
    order = turns({name: _seconds(computation, device) for name, computation in computations.items()}, budget)
    last = {name: n for n, name in enumerate(order)}
    for n, name in enumerate(order):
        _wait(device)
        start = time.perf_counter()
        results = computations[name]()
        free = time.perf_counter()
        _wait(device)
        times[name].wall.append(1e6 * (time.perf_counter() - start))
        if device.type == "cuda":
            times[name].host.append(1e6 * (free - start))
        elif n == last[name]:
            times[name].results = results
        del results  # so that the next run finds the memory that this one found


def turns(seconds: dict[Name, float], budget: float) -> list[Name]:
    """Return the order of runs: all names forwards, then backwards, and so on. A name ends when it has all its runs.

    Args:
        seconds: How long one run of each takes.
        budget: How many seconds all runs of each may take. The number of runs follows from it, but
            is at most MOST and at least FEWEST, or FEWEST_OF_SLOW for a name that takes SLOW seconds or longer.
    """
    rounds = {
        name: max(FEWEST if each < SLOW else FEWEST_OF_SLOW, min(MOST, int(budget / max(each, 1e-9))))
        for name, each in seconds.items()
    }
    order = []
    for turn in range(max(rounds.values(), default=0)):
        there = [name for name in rounds if turn < rounds[name]]
        order += there if turn % 2 == 0 else there[::-1]
    return order


def _seconds(computation: Computation, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    computation()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
