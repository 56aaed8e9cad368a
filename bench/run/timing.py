"""How long calls take: on the device, in eager mode, and on the host, side by side in alternating order."""

import statistics
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bench.run import memory
from bench.run.memory import Computation

Name = TypeVar("Name", bound=Hashable)

# Bytes that are overwritten between two runs, to throw operands out of the L2 cache: several times the largest.
COLD = 512 << 20
# Seconds that the runs of one call take, where neither the fewest nor the most runs say otherwise.
BUDGET = 0.25
FEWEST, MOST = 10, 100
# Seconds from which on a call is slow, and how many runs of it have to do.
SLOW, FEWEST_OF_SLOW = 0.25, 5


@dataclass
class Times:
    """What one call took, in microseconds, once for each run.

    `how` it was timed on the device: replays of a "graph", or, where that could not be captured, eager calls between
    "events", gaps and all; "wall" if there is none. `results` are those of the last replay. `extra_bytes` is the peak
    of the memory it took beside operands and results.
    """

    device: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    extra_bytes: int | None = None
    how: str = "wall"
    results: Any = None


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the others lie, by linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile, rounded to nanoseconds, and how many there are: one at least."""
    named = {"median": statistics.median(values), "p20": quantile(values, 0.2), "p80": quantile(values, 0.8)}
    return {**{name: round(value, 3) for name, value in named.items()}, "runs": len(values)}


def side_by_side(
    computations: dict[Name, Computation], device: torch.device, budget: float = BUDGET
) -> dict[Name, Times]:
    """Time each of `computations`, in turns, so that a machine that gets slower does so for all."""
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
    """Replays of a CUDA graph between two events, with a cold L2 cache, in turns."""
    times = {name: Times() for name in computations}
    replays = {}
    for name, computation in computations.items():
        replays[name], times[name].how, times[name].extra_bytes = captured(computation, device)
    cold = torch.empty(COLD, dtype=torch.uint8, device=device)
    for name in turns({name: _seconds(replay, device) for name, replay in replays.items()}, budget):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cold.zero_()  # long enough for what follows to be queued by the time it ends
        start.record()
        times[name].results = replays[name]()
        end.record()
        end.synchronize()
        times[name].device.append(1e3 * start.elapsed_time(end))
    return times


def captured(computation: Computation, device: torch.device) -> tuple[Computation, str, int]:
    """A replay of `computation`, what it is called, and the peak of the memory it takes beside operands and results.

    What can not be captured is called as it is.
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
        return kept  # what the graph writes to

    return replay, "graph", extra


def _in_eager_mode(
    computations: dict[Name, Computation], times: dict[Name, Times], device: torch.device, budget: float
) -> None:
    """From the call to its result, as a user waits; and, on a GPU, until the host is free for the next call."""
    for computation in computations.values():
        computation()
    for name in turns({name: _seconds(computation, device) for name, computation in computations.items()}, budget):
        _wait(device)
        start = time.perf_counter()
        computations[name]()
        free = time.perf_counter()
        _wait(device)
        times[name].wall.append(1e6 * (time.perf_counter() - start))
        if device.type == "cuda":
            times[name].host.append(1e6 * (free - start))


def turns(seconds: dict[Name, float], budget: float) -> list[Name]:
    """Whose turn it is, forwards and backwards in alternation: each as often as it fits into `budget`."""
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
