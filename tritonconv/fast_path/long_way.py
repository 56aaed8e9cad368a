"""The long way of a call: the checks of its arguments, and then the operator that computes it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.geometry import Operator
from tritonconv.operators.autograd import apply_operator
from tritonconv.reference.torch_rules import arguments
from tritonconv.settings import Settings

# Input, weight and bias.
Tensors = tuple[Tensor, Tensor, Tensor | None]
# Stride, padding and so on, as the user passed them.
Options = tuple[Any, ...]


class ConvFunction(NamedTuple):
    """A function of `tritonconv.functional`: which operator computes it, and over which letters its weight varies."""

    operator: Operator
    varies: str


def checked_and_computed(
    function: ConvFunction, tensors: Tensors, options: Options, implementation: str
) -> tuple[tuple[Any, ...], Tensor]:
    """Return the arguments of the operator that computes a call, and the result of the call.

    `options` are in the order in which the checks take them. The operator's arguments are those that the checks have
    normalised: operands with a batch, in autocast's dtype, and packed settings.

    Raise TypeError, RuntimeError or NotImplementedError if torch does. Raise NotImplementedError inside
    `torch.jit.trace`, because its graph would be wrong for images of other sizes.
    """
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():  # type: ignore[attr-defined]
        raise NotImplementedError(
            "torch.jit.trace would record the sizes of the result as constants: use torch.export or torch.compile"
        )
    check = arguments.conv2d if function.operator == "fprop" else arguments.conv_transpose2d
    checked = check(*tensors, *options, varies=function.varies)
    for_operator = (*checked[:3], *Settings(*checked[3:], implementation).packed)
    result = apply_operator(function.operator, *for_operator)
    return for_operator, result if tensors[0].ndim == 4 else result[0]
