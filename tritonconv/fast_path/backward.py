"""Repeat a backward pass: the operators that compute its gradients, with the plans that an earlier pass has kept."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.bias import sum_for
from tritonconv.call import OPERATOR_NAMES, Call
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.bounded_cache import BoundedCache, uses
from tritonconv.launch.kept_plan import KeptPlan
from tritonconv.launch.start import run_again
from tritonconv.operators.autograd import Remembered, pull_back


@dataclass(slots=True)
class Backward:
    """The plans of a backward pass, in the order in which they are started, and where its gradients are.

    Each plan stands with the two operands that it reads, which are numbers: 0 and 1 for the two factors of forward, and
    2 for the gradient of the result. `places` has one entry for each input of forward: None if its gradient is not
    required, else the number of a plan and of the result among the tensors of that. An empty tuple stands for the sum
    of the gradient, which is that of a bias.
    """

    plans: list[tuple[KeptPlan, int, int]]
    places: list[tuple[int, int] | tuple[()] | None]
    used: int = 0


backwards: BoundedCache[Backward] = BoundedCache()


def key(remembered: Remembered, needed: Sequence[bool], first: Tensor, weight: Tensor, gradient: Tensor) -> Hashable:
    """Return all that the plans of a backward pass depend on, as `plan_cache.key` does for one operator."""
    dtype = gradient.dtype
    return (  # flat, because each tuple inside takes time
        remembered,
        needed,
        dtype is torch.float32 and runtime.tf32_allowed(),
        gradient.device,
        dtype,
        gradient.shape,
        gradient.stride(),
        gradient.data_ptr() % 16,
        first.device,
        first.dtype,
        first.shape,
        first.stride(),
        first.data_ptr() % 16,
        weight.device,
        weight.dtype,
        weight.shape,
        weight.stride(),
        weight.data_ptr() % 16,
    )


def gradients(
    remembered: Remembered, saved: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor
) -> list[Tensor | None] | None:
    """Return the gradient of each input of forward, or None if no plans are kept for this, or memory is short."""
    first, weight = saved
    found = backwards.entries.get(key(remembered, needed, first, weight, gradient))
    if found is None:
        return None
    found.used = next(uses)
    operands, results = (first, weight, gradient), []
    for plan, one, other in found.plans:
        tensors = run_again(plan, operands[one], operands[other], None)
        if tensors is None:
            return None
        results.append(plan.results_in(tensors))
        del tensors  # frees the workspaces before the next plan allocates its own
    return [
        None if place is None else results[place[0]][place[1]] if place else sum_for(remembered.bias_letters, gradient)
        for place in found.places
    ]


def keep(remembered: Remembered, saved: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor) -> None:
    """Keep the plans of a backward pass that was computed just now, unless one of its operators has none."""
    generation, calls = bounded_cache.generation(), list[Call]()

    def recorded(name: str) -> Any:
        def record(*arguments: Any) -> Any:
            calls.append(Call(name, arguments))
            places = [(len(calls) - 1, i) for i in (0, 1)]
            return places if name == "wgrad_with_bias" else places[0]

        return record

    places: list[Any] = pull_back(remembered, {n: recorded(n) for n in OPERATOR_NAMES}, saved, needed, gradient)
    plans = [plan_cache.kept(call) for call in calls]
    if None in plans:
        return
    operands = [*map(id, saved), id(gradient)]
    backward = Backward(
        [(plan, *(operands.index(id(factor)) for factor in call.factors)) for plan, call in zip(plans, calls)],
        [() if isinstance(place, Tensor) else place for place in places],
    )
    backwards.add(key(remembered, needed, *saved, gradient), backward, generation)
