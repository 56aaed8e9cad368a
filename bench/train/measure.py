"""Measures the training steps of one model in one way: images a second and peak memory, torch beside tritonconv."""

import gc
from collections.abc import Sequence
from math import inf, isnan, log
from typing import Any

import torch
from torch import nn

from bench.results import Row
from bench.run.contenders import at_its_best
from bench.train.data import placed
from bench.train.models import Model
from bench.train.timing import Ready, failure, planned, timed
from bench.train.training import SLOW_RATE, WAYS, Training, dtype_on

IMPLEMENTATIONS = ("torch", "triton")
# How far the losses of the two implementations may lie apart, as a share: those of the first step, which differ by
# rounding alone, and those of a later one, for which both have learnt from gradients that differ by rounding.
APART = {"first": 0.02, "later": 0.1}
# How many times as large or as small the norm of a weight's gradient may be as torch's. In deep networks,
# rounding to bfloat16 changes every number of a gradient, but hardly its norm.
GRADIENTS_APART = 1.5


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
        `first_losses`       The losses of the first step, which is eager in any case, one for each of its parts.
        `later_losses`       Those of a step in this way, for example of the graph's replay. Both implementations have
                             run as many steps before it.
        `gradient_ratio`     Only of triton: the norm of a gradient in that step over torch's, of the convolution's
                             weight where it is the furthest from 1.

    Otherwise `status` is `skipped`, `failed` or `wrong`, and `reason` says why. It is wrong if losses or gradients
    are not torch's. An untrained classifier has about the same loss whatever its convolutions compute,
    but not the same gradients. If the GPU is lost, the exception that shows it is raised again.
    """
    size = model.size(device)
    about = {"what": "step", "model": model.name, "how": how, "batch": size.batch, "image": [*size.image]}
    rows = {name: named(about, name, device, environment) for name in IMPLEMENTATIONS}
    if reason := model.missing() or impossible(how, device):
        return [row | {"status": "skipped", "reason": reason} for row in rows.values()]
    steps: dict[str, Ready] = {}
    gradients: dict[str, list[float]] = {}
    with at_its_best(dtype_on(device)):
        for name, row in rows.items():
            try:
                steps[name], found, gradients[name] = ready(model, how, name, device)
                row |= found
            except Exception as error:
                row |= failure(error, device)
        if len(gradients) == len(rows):
            rows["triton"]["gradient_ratio"] = ratio(*gradients.values())
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
    """Return how losses or gradients of both implementations differ, or None if they agree or one of them failed."""
    for which, share in APART.items():
        theirs, mine = (rows[name].get(f"{which}_losses") for name in IMPLEMENTATIONS)
        if theirs is None or mine is None:
            return None
        if not all(abs(b - a) <= share * abs(a) for a, b in zip(theirs, mine, strict=True)):  # true for NaN
            return f"the {which} step has the losses {mine}, and torch's has {theirs}"
    far = rows["triton"]["gradient_ratio"]
    if not 1 / GRADIENTS_APART <= far <= GRADIENTS_APART:
        return f"the norm of a weight's gradient is {far:.2g} times torch's"
    return None


def gradients_of(losses: Sequence[nn.Module]) -> list[float]:
    """Return the norm of the gradient of each convolution's weight after a step. That of a missing one is zero."""
    weights = [parameter for parameter in nn.ModuleList(losses).parameters() if parameter.ndim >= 4]
    return [0.0 if each.grad is None else each.grad.norm().item() for each in weights]


def ratio(theirs: Sequence[float], mine: Sequence[float]) -> float:
    """Return the ratio of two norms that is the furthest from 1, of a weight's norms. NaN if any is NaN."""
    ratios = [b / a if a else 1.0 + b for a, b in zip(theirs, mine, strict=True)]
    return max(ratios, key=lambda each: inf if isnan(each) or each == 0 else abs(log(each)), default=1.0)


def impossible(how: str, device: torch.device) -> str | None:
    """Return why a step can not run in this way on this device, or None if it can."""
    return "CUDA graphs need a GPU" if how == "graph" and device.type != "cuda" else None


def ready(model: Model, how: str, implementation: str, device: torch.device) -> tuple[Ready, Row, list[float]]:
    """Return a step that ran before and can be timed, and the fields of its row that do not come from times.

    The last result has the norms of the gradients of a step in this way (`gradients_of`).
    """
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
    later = [loss.item() for loss in step()]
    about = {"converted": training.converted, "peak_bytes": peak, "first_losses": first, "later_losses": later}
    return planned(step, device), about, gradients_of(training.losses)


def allocated(device: torch.device) -> int:
    """Return the bytes on the GPU that are allocated now, after unused ones were freed. 0 on a CPU."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)
