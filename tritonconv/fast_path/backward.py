"""Repeat a backward pass: the operators that compute its gradients, with the plans that an earlier pass has kept."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.bias import sum_for
from tritonconv.call import OPERATOR_NAMES, Call
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.bounded_cache import BoundedCache, uses
from tritonconv.launch.kept_plan import OPERANDS, KeptPlan
from tritonconv.launch.start import run_again
from tritonconv.operators.autograd import SavedCall, pull_back


class Step(NamedTuple):
    """One operator of a backward pass, and its plan.

    `operands` are the two that it reads: 0 and 1 for the factors of forward, 2 for the gradient of the result. `inputs`
    has for each result which input of forward it is the gradient of: 0 and 1 for the factors, 2 for the bias.
    """

    plan: KeptPlan
    operands: tuple[int, int]
    inputs: tuple[int, ...]


@dataclass(slots=True)
class KeptBackward:
    """The steps of a backward pass. `sums_bias` says that the bias's gradient is a sum, which torch computes."""

    steps: list[Step]
    sums_bias: bool
    used: int = 0


# Stands for the gradient of a bias that torch sums, while calls are noted.
SUM = "sum"

kept_backwards: BoundedCache[KeptBackward] = BoundedCache()


# Where a key has torch's switch for TF32, which counts in float32 only.
TF32 = 2


def key(
    saved_call: SavedCall, needed: tuple[bool, ...], first: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Hashable, ...]:
    """Return all that the plans of a backward pass depend on, as `plan_cache.key` does for one operator."""
    dtype = gradient.dtype
    return (  # flat, because each tuple inside takes time
        saved_call,
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
    saved_call: SavedCall, saved: tuple[Tensor, Tensor], needed: tuple[bool, ...], gradient: Tensor
) -> list[Tensor | None] | None:
    """Return the gradient of each input of forward, or None if no plans are kept for this, or memory is short."""
    first, weight = saved
    found = kept_backwards.entries.get(key(saved_call, needed, first, weight, gradient))
    if found is None:
        return None
    found.used = next(uses)
    operands = (first, weight, gradient)
    computed: list[Tensor | None] = [None, None, None]
    for plan, (one, other), inputs in found.steps:
        tensors = run_again(plan, operands[one], operands[other], None)
        if tensors is None:
            return None
        number = OPERANDS
        for each in inputs:
            computed[each] = tensors[number]
            number += 1
        del tensors  # frees the workspaces before the next plan allocates its own
    if found.sums_bias:
        computed[2] = sum_for(saved_call.bias_letters, gradient)
    return computed


def keep(saved_call: SavedCall, saved: tuple[Tensor, Tensor], needed: tuple[bool, ...], gradient: Tensor) -> None:
    """Keep the plans of a backward pass that was computed just now, unless one of its operators has none.

    `pull_back` says which operators these are: it is called with functions that note calls and compute nothing. A pass
    in which one tensor has two roles is not kept, because a call then does not say which role it reads.
    """
    generation, calls = bounded_cache.generation(), list[Call]()
    # `pull_back` takes the conjugate of the factors. That of a real tensor is the tensor itself.
    operands = [*map(id, saved), id(gradient)]
    if len(set(operands)) < len(operands):
        return
    under = key(saved_call, needed, *saved, gradient)

    def noting(name: str) -> Any:
        def note(*arguments: Any) -> Any:
            """Note a call, and return its number and that of its result. `wgrad_with_bias` has two results."""
            calls.append(Call(name, arguments))
            number = len(calls) - 1
            return [(number, 0), (number, 1)] if name == "wgrad_with_bias" else (number, 0)

        return note

    applies = {name: noting(name) for name in OPERATOR_NAMES}
    noted: list[Any] = pull_back(saved_call, applies, saved, needed, gradient, sum_bias=lambda *_: SUM)
    steps = []
    for number, call in enumerate(calls):
        plan = plan_cache.find(call)
        if plan is None or not plan.follows_switch(tf32=under[TF32]):
            return
        one, other = (operands.index(id(factor)) for factor in call.factors)
        inputs = tuple(noted.index((number, result)) for result in range(plan.results))
        steps.append(Step(plan, (one, other), inputs))
    backward = KeptBackward(steps, sums_bias=noted[2] is SUM)
    kept_backwards.add(under, backward, generation)
