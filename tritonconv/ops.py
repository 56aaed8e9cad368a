"""The three operators as torch sees them: schemas, implementations, shapes, FLOPs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

import reference
from tritonconv import launch
from tritonconv.dispatch import Problem, choose_and_warn
from tritonconv.geometry import ConvGeometry, Operator

Ints = Sequence[int]


class Sampling(NamedTuple):
    """What follows the tensors in every operator's arguments.

    `size` is the extent of the result, the factor that is left out: (P, Q), (H, W) or (R, S), in pixels or taps. `pad`
    is the leading padding; the trailing one follows from the sizes of both sides.
    """

    size: Ints
    stride: Ints
    pad: Ints
    dilation: Ints
    groups: int
    implementation: str

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> "Sampling":
        """The last of an operator's arguments."""
        return cls(*arguments[-len(cls._fields) :])


SCHEMA = "SymInt[2] size, SymInt[2] stride, SymInt[2] pad, SymInt[2] dilation, SymInt groups, str implementation"

library = torch.library.Library("tritonconv", "DEF")
library.define(f"fprop(Tensor x, Tensor weight, Tensor? bias, {SCHEMA}) -> Tensor")
library.define(f"dgrad(Tensor y, Tensor weight, Tensor? bias, {SCHEMA}) -> Tensor")
library.define(f"wgrad(Tensor x, Tensor y, {SCHEMA}) -> Tensor")

operators = torch.ops.tritonconv


def geometry_of(operator: Operator, first: Ints, second: Ints, sampling: Sampling) -> ConvGeometry:
    """The geometry of a call, from the shapes of its two factors and its sampling."""
    size, stride, pad, dilation, groups, _ = sampling
    match operator:
        case "fprop":
            (B, C, H, W), (F, _, R, S), (P, Q) = first, second, size
        case "dgrad":
            (B, F, P, Q), (_, C, R, S), (H, W) = first, second, size
            C = C * groups
        case "wgrad":
            (B, C, H, W), (_, F, P, Q), (R, S) = first, second, size
    return ConvGeometry(B, C, H, W, F, P, Q, R, S, groups, *stride, *pad, *dilation)


def result_shape(operator: Operator, geometry: ConvGeometry) -> tuple[int, int, int, int]:
    """The shape of the factor that `operator` leaves out."""
    match operator:
        case "fprop":
            return geometry.feature_shape
        case "dgrad":
            return geometry.image_shape
        case "wgrad":
            return geometry.weight_shape


def channels_last(*factors: Tensor) -> bool:
    """Whether the result is channels_last, as torch decides it: if any factor is."""
    return any(strides_are_channels_last(factor) for factor in factors)


def strides_are_channels_last(tensor: Tensor) -> bool:
    """Whether the strides grow in the order c, w, h, b, gaps allowed; not so where one pixel or channel leaves it open.

    The rule by which torch suggests a memory format (`c10/core/MemoryFormat.h`).
    """
    sizes, strides = tensor.shape, tensor.stride()
    if strides[1] == 0 or 0 in sizes:
        return False
    least = 0
    for dim in (1, 3, 2, 0):
        if strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(sizes[dim], 1)
    return True


def fprop(x: Tensor, weight: Tensor, bias: Tensor | None, *sampling: Any) -> Tensor:
    return run("fprop", x, weight, bias, Sampling(*sampling))


def dgrad(y: Tensor, weight: Tensor, bias: Tensor | None, *sampling: Any) -> Tensor:
    return run("dgrad", y, weight, bias, Sampling(*sampling))


def wgrad(x: Tensor, y: Tensor, *sampling: Any) -> Tensor:
    return run("wgrad", x, y, None, Sampling(*sampling))


def run(operator: Operator, first: Tensor, second: Tensor, bias: Tensor | None, sampling: Sampling) -> Tensor:
    """Choose an implementation and compute, into memory of the format that `shape_of` promised."""
    geometry = geometry_of(operator, first.shape, second.shape, sampling)
    problem = Problem(operator, geometry, first.dtype, first.device)
    if choose_and_warn(problem, sampling.implementation) == "triton":
        return launch.fprop(first, second, bias, geometry, channels_last(first, second))
    result: Tensor = getattr(reference, operator)(first, second, *sampling[:5])
    if bias is not None:
        result = result + bias[:, None, None]
    # A copy, because autograd must not see a view, nor the user's tensor keep a larger one alive.
    return launch.allocate(result.shape, result, channels_last(first, second)).copy_(result)


def shape_of(operator: Operator) -> Callable[..., Tensor]:
    """What torch calls to learn the result's shape, dtype and strides without computing it."""

    def fake(first: Tensor, second: Tensor, *arguments: Any) -> Tensor:
        geometry = geometry_of(operator, first.shape, second.shape, Sampling.of(arguments))
        return launch.allocate(result_shape(operator, geometry), first, channels_last(first, second))

    return fake


def flops_of(operator: Operator) -> Callable[..., int]:
    """What `torch.utils.flop_counter` calls, with shapes in the place of tensors."""

    def flops(first: Ints, second: Ints, *arguments: Any, out_shape: Ints | None = None, **_: Any) -> int:
        return geometry_of(operator, first, second, Sampling.of(arguments)).flops

    return flops


_FUNCTIONS: dict[Operator, Callable[..., Tensor]] = {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}
for _operator, _function in _FUNCTIONS.items():
    library.impl(_operator, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"tritonconv::{_operator}", shape_of(_operator), lib=library)
    register_flop_formula(getattr(operators, _operator))(flops_of(_operator))
