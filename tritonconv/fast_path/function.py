"""`Convolution`: a convolution as one node of autograd's graph, which starts kept plans forward and backward."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from tritonconv.call import Call
from tritonconv.fast_path import backward
from tritonconv.fast_path.guards import is_plain
from tritonconv.launch.kept_plan import OPERANDS, KeptPlan
from tritonconv.launch.start import run_again
from tritonconv.operators import compute
from tritonconv.operators.autograd import DIRECT, Remembered, pull_back

# Bound once, because looking them up takes longer than calling them.
_is_compiling, _is_grad_enabled = torch.compiler.is_dynamo_compiling, torch.is_grad_enabled


@dataclass(slots=True)
class Forward:
    """What a call has found out for later calls that are equal to it: its plan, and what backward needs."""

    plan: KeptPlan
    remembered: Remembered
    used: int = 0


def repeat(kept: Forward, first: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the result of a call by its kept plan. If memory is short for that, plan the call anew."""
    tensors = run_again(kept.plan, first, weight, bias)
    if tensors is None:
        name, settings = kept.remembered.name, kept.remembered.settings
        return compute.compute_first(Call(name, (first, weight, bias, *settings.packed)))[0]
    result: Tensor = tensors[OPERANDS]
    return result


class Convolution(Function):
    """`repeat`, with a backward pass that repeats kept plans, too, where it may."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, weight: Tensor, bias: Tensor | None, kept: Forward) -> Tensor:
        ctx.save_for_backward(first, weight)
        ctx.remembered = kept.remembered
        return repeat(kept, first, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients. All that forward has asked is asked again.

        Hooks may unpack other tensors than were saved, modes may be active in backward alone, and the gradients may be
        differentiated.
        """
        remembered, needed = ctx.remembered, ctx.needs_input_grad
        saved: tuple[Tensor, Tensor] = ctx.saved_tensors
        plain = not _is_compiling() and not _is_grad_enabled() and not compute.observers and is_plain(*saved, gradient)
        found = backward.gradients(remembered, saved, needed, gradient) if plain else None
        if found is None:
            found = pull_back(remembered, DIRECT, saved, needed, gradient)
            if plain:
                backward.keep(remembered, saved, needed, gradient)
        return *found, None
