"""The operators as torch knows them without computing: schemas, shapes and FLOPs.

There are three, and a fourth that is one of them with something on top: `wgrad_with_bias` also sums the features, for
fprop's bias, while it reads them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.launch.layout import allocate, last_in_memory

Ints = Sequence[int]


class Sampling(NamedTuple):
    """What follows the tensors in every operator's arguments.

    `size` is the extent of the result, the factor that is left out: (P, Q), (H, W) or (R, S), in pixels or taps. `pad`
    is the leading padding; the trailing one follows from the sizes of both sides. `varies` has the letters that the
    weight carries in front: "", "b", "p q" or "b p q". `channels_last` is the memory format of the result, and of
    everything that is derived from the call; but a weight that varies always has its channels last in memory.
    """

    size: Ints
    stride: Ints
    pad: Ints
    dilation: Ints
    groups: int
    varies: str
    channels_last: bool
    implementation: str

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> "Sampling":
        """The last of an operator's arguments."""
        return cls(*arguments[-len(cls._fields) :])


SCHEMA = (
    "SymInt[2] size, SymInt[2] stride, SymInt[2] pad, SymInt[2] dilation, SymInt groups, str varies, "
    "bool channels_last, str implementation"
)

library = torch.library.Library("tritonconv", "DEF")
library.define(f"fprop(Tensor x, Tensor weight, Tensor? bias, {SCHEMA}) -> Tensor")
library.define(f"dgrad(Tensor y, Tensor weight, Tensor? bias, {SCHEMA}) -> Tensor")
library.define(f"wgrad(Tensor x, Tensor y, {SCHEMA}) -> Tensor")
library.define(f"wgrad_with_bias(Tensor x, Tensor y, {SCHEMA}) -> (Tensor, Tensor)")

operators = torch.ops.tritonconv


def operator_of(name: str) -> Operator:
    """Which of the three the operator of that name is."""
    operator: Operator = name.removesuffix("_with_bias")  # type: ignore[assignment]
    return operator


def geometry_of(operator: Operator, first: Ints, second: Ints, sampling: Sampling) -> ConvGeometry:
    """The geometry of a call, from the shapes of its two factors and its sampling."""
    size, stride, pad, dilation, groups, varies = sampling[:6]
    match operator:
        case "fprop":
            (B, C, H, W), (F, _, R, S), (P, Q) = first, second[-4:], size
        case "dgrad":
            (B, F, P, Q), (_, C, R, S), (H, W) = first, second[-4:], size
            C = C * groups
        case "wgrad":
            (B, C, H, W), (_, F, P, Q), (R, S) = first, second, size
    return ConvGeometry(B, C, H, W, F, P, Q, R, S, groups, *stride, *pad, *dilation, varies)  # type: ignore


def result_shape(operator: Operator, geometry: ConvGeometry) -> tuple[int, ...]:
    """The shape of the factor that `operator` leaves out."""
    match operator:
        case "fprop":
            return geometry.feature_shape
        case "dgrad":
            return geometry.image_shape
        case "wgrad":
            return geometry.weight_shape


def allocate_result(operator: Operator, geometry: ConvGeometry, like: Tensor, channels_last: bool) -> Tensor:
    return allocate(result_shape(operator, geometry), like, last_in_memory(operator, geometry, channels_last))


def shape_of(operator: Operator) -> Callable[..., Tensor]:
    """What torch calls to learn the result's shape, dtype and strides without computing it."""

    def fake(first: Tensor, second: Tensor, *arguments: Any) -> Tensor:
        sampling = Sampling.of(arguments)
        geometry = geometry_of(operator, first.shape, second.shape, sampling)
        return allocate_result(operator, geometry, first, sampling.channels_last)

    return fake


def shapes_of_wgrad_with_bias(x: Tensor, y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return shape_of("wgrad")(x, y, *arguments), allocate(y.shape[1:2], y, False)


def flops_of(operator: Operator) -> Callable[..., int]:
    """What `torch.utils.flop_counter` calls, with shapes in the place of tensors: torch's own count of the same."""

    def flops(first: Ints, second: Ints, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
        geometry = geometry_of(operator, first, second, Sampling.of(arguments))
        x, y, weight = (list(s) for s in (geometry.image_shape, geometry.feature_shape, geometry.weight_shape[-4:]))
        match operator:
            case "fprop":
                count = conv_flop_count(x, weight, y)
            case "dgrad":
                count = conv_flop_count(y, weight, x, transposed=True)
            case "wgrad":
                # As a convolution of images with features. With groups torch counts every pair of channels, G times
                # too many.
                count = conv_flop_count(*([t[1], t[0], *t[2:]] for t in (x, y, weight)))  # type: ignore[arg-type]
        return int(count)

    return flops


for _name in ("fprop", "dgrad", "wgrad", "wgrad_with_bias"):
    _operator = operator_of(_name)
    _fake = shapes_of_wgrad_with_bias if _name == "wgrad_with_bias" else shape_of(_operator)
    torch.library.register_fake(f"tritonconv::{_name}", _fake, lib=library)
    register_flop_formula(getattr(operators, _name))(flops_of(_operator))
