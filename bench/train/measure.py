"""Measures the training steps of one model in one way: images a second and peak memory, torch beside tritonconv."""

import gc
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench.results import Row, in_short, lost
from bench.run.contenders import at_its_best
from bench.run.timing import spread
from bench.train.data import placed
from bench.train.models import Model
from bench.train.training import SLOW_RATE, WAYS, Step, Training, dtype_on

IMPLEMENTATIONS = ("torch", "triton")
# The most steps that are timed together, as a training loop runs them: none waits for the one before.
TOGETHER = 5
# How far the first losses of the two implementations may lie apart, as a share. They differ by rounding alone.
APART = 0.02
# Seconds that all timed steps of one implementation may take. FEWEST and MOST bound the number of runs.
BUDGET = 1.5
FEWEST, MOST = 5, 50


@dataclass(frozen=True)
class Ready:
    """A step that can be timed: `runs` times, and each time several steps `together`."""

    step: Step
    runs: int
    together: int


def measured(model: Model, how: str, device: torch.device, environment: dict[str, Any]) -> list[Row]:
    """Return a row for each implementation: the model's training steps in this way, timed in turns.

    A row with the status `ok` has these fields, among others:

        `images_per_second`  From the median of `wall_us`.
        `step_us`            Microseconds of a step on the GPU, between two events around several steps, with the gaps
                             between its kernels. None on a CPU.
        `wall_us`            Microseconds of a step, from the call of the first of several steps until all are done.
        `peak_bytes`         The peak of the memory in a step: parameters, gradients, momentum, activations and
                             scratch. With a CUDA graph it is that of the capture. None on a CPU.
        `converted`          How many layers tritonconv computes, 0 for torch.
        `together`           How many steps were timed together. Times are means of them.
        `kernels`            Only of triton: the names of its kernels.
        `first_losses`       The losses of the first step, one for each of its parts.

    Otherwise `status` is `skipped`, `failed` or `wrong`, and `reason` says why. It is wrong if the first losses are not
    torch's. If the GPU is lost, the exception that shows it is raised again.
    """
    size = model.size(device)
    about = {"what": "step", "model": model.name, "how": how, "batch": size.batch, "image": [*size.image]}
    rows = {name: named(about, name, device, environment) for name in IMPLEMENTATIONS}
    if reason := model.missing() or impossible(how, device):
        return [row | {"status": "skipped", "reason": reason} for row in rows.values()]
    steps: dict[str, Ready] = {}
    with at_its_best(dtype_on(device)):
        for name, row in rows.items():
            try:
                steps[name], found = ready(model, how, name, device)
                row |= found
            except Exception as error:
                row |= failure(error, device)
        if reason := apart(rows):
            rows["triton"] |= {"status": "wrong", "reason": reason}
            steps.pop("triton")
        for name, outcome in timed(steps, device, size.batch).items():
            rows[name] |= outcome
    return list(rows.values())


def named(about: Row, implementation: str, device: torch.device, environment: dict[str, Any]) -> Row:
    """Return the fields of a row that say what it measures. Only rows of triton have kernels."""
    row = about | {"implementation": implementation, "dtype": dtype_on(device)}
    return row | ({"kernels": environment["kernels"]} if implementation == "triton" else {})


def apart(rows: dict[str, Row]) -> str | None:
    """Return how the first losses of both implementations differ, or None if they agree or one of them failed."""
    theirs, mine = (rows[name].get("first_losses") for name in IMPLEMENTATIONS)
    if theirs is None or mine is None:
        return None
    if all(abs(b - a) <= APART * abs(a) for a, b in zip(theirs, mine, strict=True)):  # false for NaN
        return None
    return f"the first step has the losses {mine}, and torch's has {theirs}"


def impossible(how: str, device: torch.device) -> str | None:
    """Return why a step can not run in this way on this device, or None if it can."""
    return "CUDA graphs need a GPU" if how == "graph" and device.type != "cuda" else None


def ready(model: Model, how: str, implementation: str, device: torch.device) -> tuple[Ready, Row]:
    """Return a step that ran before and can be timed, and the fields of its row that do not come from times."""
    before = allocated(device)
    size = model.size(device)
    training = Training.of(model, size, implementation, device, seed=0, rate=SLOW_RATE)
    batch = placed(model.draw(size, torch.Generator().manual_seed(0)), device)
    if implementation == "triton" and device.type == "cuda":
        training.precompile(batch)
    torch.manual_seed(0)  # for dropout, which must drop the same for both implementations
    first = [loss.item() for loss in training.step(*batch)]
    step = WAYS[how](training, batch, device)
    peak = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    return planned(step, device), {"converted": training.converted, "peak_bytes": peak, "first_losses": first}


def allocated(device: torch.device) -> int:
    """Return the bytes on the GPU that are allocated now, after unused ones were freed. 0 on a CPU."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


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
