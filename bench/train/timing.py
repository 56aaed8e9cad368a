"""Times steps in turns: several together, as a training loop runs them, by events on the GPU and by the clock."""

import time
from dataclasses import dataclass

import torch

from bench.results import Row, in_short, lost
from bench.run.timing import spread
from bench.train.training import Step

# The most steps that are timed together, as a training loop runs them: none waits for the one before.
TOGETHER = 5
# Seconds that all timed steps of one implementation may take. FEWEST and MOST bound the number of runs.
BUDGET = 1.5
FEWEST, MOST = 5, 50


@dataclass(frozen=True)
class Ready:
    """A step that can be timed: `runs` times, and each time several steps `together`."""

    step: Step
    runs: int
    together: int


def timed(steps: dict[str, Ready], device: torch.device, batch: int) -> dict[str, Row]:
    """Return the fields of times for each of `steps`, which run in turns, forwards and backwards.

    A step that raises an exception gets `status` and `reason` instead, and the others go on.
    """
    found: dict[str, Row] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    turn = 0
    while waiting := [name for name, each in steps.items() if name not in found and turn < each.runs]:
        for name in waiting if turn % 2 == 0 else waiting[::-1]:
            try:
                times[name].append(once(steps[name].step, device, steps[name].together))
            except Exception as error:
                found[name] = failure(error, device)
        turn += 1
    return {name: found.get(name) or fields(times[name], each, device, batch) for name, each in steps.items()}


def planned(step: Step, device: torch.device) -> Ready:
    """Run a step once more to see how long it takes, and return how often it is timed.

    On a GPU all runs take about BUDGET seconds, but FEWEST runs of a single step are the least. A CPU, which only
    rehearses, runs the step twice.
    """
    if device.type != "cuda":
        return Ready(step, runs=2, together=1)
    seconds = once(step, device, together=1)[1] / 1e6
    together = max(1, min(TOGETHER, int(BUDGET / FEWEST / seconds)))
    return Ready(step, max(FEWEST, min(MOST, int(BUDGET / (together * seconds)))), together)


def once(step: Step, device: torch.device, together: int) -> tuple[float, float]:
    """Return the microseconds of a step on the GPU, which are 0 on a CPU, and until its result is there.

    They are means of `together` steps, which run one after another.
    """
    gpu = device.type == "cuda"
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if gpu else []
    wait(device)
    start = time.perf_counter()
    for event in events[:1]:
        event.record()
    for _ in range(together):
        step()
    for event in events[1:]:
        event.record()
    wait(device)
    wall = time.perf_counter() - start
    on_device = events[0].elapsed_time(events[1]) if gpu else 0.0
    return 1e3 * on_device / together, 1e6 * wall / together


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fields(times: list[tuple[float, float]], ready: Ready, device: torch.device, batch: int) -> Row:
    """Return the fields of a row that follow from its pairs of times."""
    wall = spread([each for _, each in times])
    return {
        "status": "ok",
        "images_per_second": float(f"{1e6 * batch / wall['median']:.4g}"),
        "step_us": spread([each for each, _ in times]) if device.type == "cuda" else None,
        "wall_us": wall,
        "together": ready.together,
    }


def failure(error: Exception, device: torch.device) -> Row:
    """Return the status and the reason that a row gets for an exception. Raise it again if the GPU is lost."""
    if lost(device):
        raise error
    return {"status": "failed", "reason": in_short(error)}
