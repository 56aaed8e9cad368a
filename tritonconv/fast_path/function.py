"""`Convolution`: a convolution as one node of autograd's graph, which repeats kept plans forward and backward."""

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
from tritonconv.operators.autograd import DIRECT, SavedCall, pull_back
from tritonconv.operators.compute import compute_anew

# Bound once, because looking it up takes longer than calling it.
_is_grad_enabled = torch.is_grad_enabled


@dataclass(slots=True)
class KeptForward:
    """What a call has found out for later calls that are equal to it: its plan, and what backward needs."""

    plan: KeptPlan
    saved_call: SavedCall
    used: int = 0


def repeat(kept: KeptForward, first: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the result of a call by its kept plan. If that can not be filled, plan the call anew."""
    tensors = run_again(kept.plan, first, weight, bias)
    if tensors is None:
        name, settings = kept.saved_call.name, kept.saved_call.settings
        return compute_anew(Call(name, (first, weight, bias, *settings.packed)))[0]
    result: Tensor = tensors[OPERANDS]
    return result


# It is called as the Function in operators/autograd.py, so that `y.grad_fn` has the same name both ways.
class Convolution(Function):
    """`repeat`, with a backward pass that repeats kept plans, too, where it may."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, weight: Tensor, bias: Tensor | None, kept: KeptForward) -> Tensor:
        ctx.save_for_backward(first, weight)
        ctx.saved_call = kept.saved_call
        return repeat(kept, first, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients. Whether the call is plain is asked again.

        Hooks may unpack other tensors than were saved, modes may be active in backward alone, and the gradients may be
        differentiated.
        """
        saved_call, needed = ctx.saved_call, ctx.needs_input_grad
        saved: tuple[Tensor, Tensor] = ctx.saved_tensors
        plain = is_plain(*saved, gradient) and not _is_grad_enabled()
        found = backward.gradients(saved_call, saved, needed, gradient) if plain else None
        if found is None:
            found = pull_back(saved_call, DIRECT, saved, needed, gradient)
            if plain:
                backward.keep(saved_call, saved, needed, gradient)
        return *found, None
