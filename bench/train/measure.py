"""Measures the training steps of one model in one way: images a second and peak memory, torch beside tritonconv."""

import gc
from collections.abc import Sequence
from math import hypot
from typing import Any

import torch
from torch import Tensor, nn

from bench.results import Row
from bench.run.contenders import at_its_best
from bench.train.data import placed
from bench.train.models import Model
from bench.train.timing import Ready, failure, planned, timed
from bench.train.training import SLOW_RATE, WAYS, Training, dtype_on

IMPLEMENTATIONS = ("torch", "triton")
# How far the first losses of the two implementations may lie apart, as a share. They differ by rounding alone.
APART = 0.02
# How far the first gradients may lie apart, as a share of torch's: the norm of the difference over that of torch's.
# A missing or a doubled gradient is 1 apart. In bfloat16, rounding grows from layer to layer.
GRADIENTS_APART = 0.5


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
        `gradients_apart`    Only of triton: how far the gradients of all convolutions' weights are from torch's after
                             the first step, as a share. `worst_gradient` is the largest such share of one weight.

    Otherwise `status` is `skipped`, `failed` or `wrong`, and `reason` says why. It is wrong if the first losses or the
    first gradients are not torch's. An untrained classifier has about the same loss whatever its convolutions compute,
    but not the same gradients. If the GPU is lost, the exception that shows it is raised again.
    """
    size = model.size(device)
    about = {"what": "step", "model": model.name, "how": how, "batch": size.batch, "image": [*size.image]}
    rows = {name: named(about, name, device, environment) for name in IMPLEMENTATIONS}
    if reason := model.missing() or impossible(how, device):
        return [row | {"status": "skipped", "reason": reason} for row in rows.values()]
    steps: dict[str, Ready] = {}
    gradients: dict[str, list[Tensor]] = {}
    with at_its_best(dtype_on(device)):
        for name, row in rows.items():
            try:
                steps[name], found, gradients[name] = ready(model, how, name, device)
                row |= found
            except Exception as error:
                row |= failure(error, device)
        if len(gradients) == len(rows):
            rows["triton"] |= distances(*gradients.values())
        gradients.clear()
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
    if not all(abs(b - a) <= APART * abs(a) for a, b in zip(theirs, mine, strict=True)):  # true for NaN
        return f"the first step has the losses {mine}, and torch's has {theirs}"
    far = rows["triton"].get("gradients_apart", 0.0)
    if not far <= GRADIENTS_APART:
        return f"the first step has other gradients than torch's: {far:.2g} apart, as a share of torch's"
    return None


def gradients_of(losses: Sequence[nn.Module]) -> list[Tensor]:
    """Return the gradient of each convolution's weight after a step, on the CPU. A missing one is zero."""
    weights = [parameter for parameter in nn.ModuleList(losses).parameters() if parameter.ndim >= 4]
    return [torch.zeros(each.shape) if each.grad is None else each.grad.cpu() for each in weights]


def distances(theirs: Sequence[Tensor], mine: Sequence[Tensor]) -> Row:
    """Return how far the gradients lie apart, of all weights together and of the weight where it is most."""
    pairs = [((b - a).norm().item(), a.norm().item()) for a, b in zip(theirs, mine, strict=True)]
    whole = [hypot(*(pair[side] for pair in pairs)) for side in (0, 1)]
    return {"gradients_apart": share(*whole), "worst_gradient": max((share(*each) for each in pairs), default=0.0)}


def share(difference: float, size: float) -> float:
    return float(f"{difference / size:.3g}") if size else difference


def impossible(how: str, device: torch.device) -> str | None:
    """Return why a step can not run in this way on this device, or None if it can."""
    return "CUDA graphs need a GPU" if how == "graph" and device.type != "cuda" else None


def ready(model: Model, how: str, implementation: str, device: torch.device) -> tuple[Ready, Row, list[Tensor]]:
    """Return a step that ran before and can be timed, and the fields of its row that do not come from times.

    The last result are the gradients of its first step.
    """
    before = allocated(device)
    size = model.size(device)
    training = Training.of(model, size, implementation, device, seed=0, rate=SLOW_RATE)
    batch = placed(model.draw(size, torch.Generator().manual_seed(0)), device)
    if implementation == "triton" and device.type == "cuda":
        training.precompile(batch)
    torch.manual_seed(0)  # for dropout, which must drop the same for both implementations
    first = [loss.item() for loss in training.step(*batch)]
    gradients = gradients_of(training.losses)
    step = WAYS[how](training, batch, device)
    peak = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    about = {"converted": training.converted, "peak_bytes": peak, "first_losses": first}
    return planned(step, device), about, gradients


def allocated(device: torch.device) -> int:
    """Return the bytes on the GPU that are allocated now, after unused ones were freed. 0 on a CPU."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)
