"""Times calls side by side, in alternating order: device time, eager (wall) time and host time."""

import statistics
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bench.run import memory, sensors
from bench.run.capture import captured
from bench.run.memory import Computation

Name = TypeVar("Name", bound=Hashable)

# Bytes that are read between two runs, so that the L2 cache is cold. This is several times the largest L2 cache.
COLD = 512 << 20
# The clock and the power are read after the first run of each call, and after every SENSED-th run from there on.
SENSED = 10
# Seconds that all runs of one call may take. FEWEST and MOST bound the number of runs.
BUDGET = 0.25
FEWEST, MOST = 10, 100
# A call that takes SLOW seconds or longer has at least FEWEST_OF_SLOW runs instead of FEWEST.
SLOW, FEWEST_OF_SLOW = 0.25, 5


@dataclass
class Times:
    """The times of one call in microseconds, one for each run.

    Attributes:
        device: How long the GPU took, with a cold L2 cache. Empty on a CPU.
        warm: How long the GPU took for a second replay directly after each of `device`. Empty without a CUDA graph.
        wall: From an eager call until its result is there.
        host: From an eager call until it returns. Empty on a CPU.
        extra_bytes: The peak of the memory that the call takes beside operands and results.
        how: How `device` was timed. "graph": replays of a CUDA graph. "events": eager calls between two events, with
            the gaps between kernels, because the call could not be captured. "wall": there was no GPU.
        results: The results of the last timed run: on the device, or on a CPU in eager mode.
        sensed: The clock and the power of the GPU after some of the runs in `device`, where the driver tells them.
    """

    device: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    extra_bytes: int | None = None
    how: str = "wall"
    results: Any = None
    sensed: list[sensors.Reading] = field(default_factory=list)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 20th and the 80th percentile, rounded to nanoseconds, and the number of values.

    There must be at least one value, in microseconds. Percentiles are interpolated between the two nearest ranks.
    """
    fifths = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else [*values] * 4
    named = {"median": statistics.median(values), "p20": fifths[0], "p80": fifths[-1]}
    return {**{name: round(value, 3) for name, value in named.items()}, "runs": len(values)}


def median_of(values: Sequence[float]) -> float | None:
    """Return the median, or None if there are no values."""
    return statistics.median(values) if values else None


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
    """Return the device times of each of `computations`: replays of CUDA graphs, in turns.

    Each turn replays a graph twice: with a cold L2 cache, and directly after that, when the cache holds what fits of
    its operands and results. The cache is cooled by reading. Writing would leave it full of changed lines, which the
    GPU would write back to memory within the timed run.
    """
    times = {name: Times() for name in computations}
    replays = {}
    for name, computation in computations.items():
        replays[name], times[name].how, times[name].extra_bytes = captured(computation, device)
    cold, total = torch.ones(COLD // 4, device=device), torch.empty((), device=device)
    for name in turns({name: _seconds(replay, device) for name, replay in replays.items()}, budget):
        its, replay = times[name], replays[name]
        start, end, again = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        torch.sum(cold, 0, out=total)  # takes long enough for the host to queue the replays and the events meanwhile
        start.record()
        its.results = replay()
        end.record()
        if its.how == "graph":
            replay()
            again.record()
            again.synchronize()
            its.warm.append(1e3 * end.elapsed_time(again))
        end.synchronize()
        its.device.append(1e3 * start.elapsed_time(end))
        if len(its.device) % SENSED == 1 and (reading := sensors.read(device)):
            its.sensed.append(reading)
    return times


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
