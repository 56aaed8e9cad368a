"""A call of an operator as one value: what is decided, planned, started, kept, explained and verified."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.geometry import COMPUTED_BY, LEAVES_OUT, TAKES, ConvGeometry, Factor, Operator

Ints = Sequence[int]


class Settings(NamedTuple):
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

    @property
    def of_reference(self) -> dict[str, Any]:
        """What the reference takes of them, by name."""
        return dict(
            size=self.size,
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            groups=self.groups,
            varies=self.varies,
        )


# The operators as torch knows them: the three, and wgrad once more, together with the gradient of fprop's bias.
NAMES = ("fprop", "dgrad", "wgrad", "wgrad_with_bias")


def operator_of(name: str) -> Operator:
    """Which of the three the operator of that name is."""
    operator: Operator = name.removesuffix("_with_bias")  # type: ignore[assignment]
    return operator


def split(name: str, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], Settings]:
    """The tensors among the arguments of the operator `name`, and the settings that follow them.

    The tensors are two factors, and of fprop and dgrad a bias, or None.
    """
    if name in ("fprop", "dgrad"):
        first, second, bias, size, stride, pad, dilation, *others = arguments
        tensors: tuple[Any, ...] = (first, second, bias)
    else:
        first, second, size, stride, pad, dilation, *others = arguments
        tensors = (first, second)
    # torch hands over lists, of which there is no hash.
    return tensors, Settings(tuple(size), tuple(stride), tuple(pad), tuple(dilation), *others)


def geometry_of(operator: Operator, first: Ints, second: Ints, settings: Settings) -> ConvGeometry:
    """The geometry of a call, from the shapes of its two factors and its settings."""
    match operator:
        case "fprop":
            (B, C, H, W), (*_, F, _, R, S), (P, Q) = first, second, settings.size
        case "dgrad":
            (B, F, P, Q), (*_, C, R, S), (H, W) = first, second, settings.size
            C = C * settings.groups
        case "wgrad":
            (B, C, H, W), (_, F, P, Q), (R, S) = first, second, settings.size
    stride_h, stride_w = settings.stride
    pad_h, pad_w = settings.pad
    dilation_h, dilation_w = settings.dilation
    return ConvGeometry(
        B=B,
        C=C,
        H=H,
        W=W,
        F=F,
        P=P,
        Q=Q,
        R=R,
        S=S,
        G=settings.groups,
        stride_h=stride_h,
        stride_w=stride_w,
        pad_h=pad_h,
        pad_w=pad_w,
        dilation_h=dilation_h,
        dilation_w=dilation_w,
        varies=settings.varies,
    )


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operator.

    `factors` are the two that the operator takes, in the order of `geometry.TAKES`. `bias` is what fprop and dgrad add
    to their result, or None. `finds_bias` says that wgrad computes the gradient of fprop's bias, too. `device` is where
    the call runs, also where its tensors have no data and are on the meta device.
    """

    operator: Operator
    factors: tuple[Tensor, Tensor]
    bias: Tensor | None
    finds_bias: bool
    settings: Settings
    device: torch.device

    @classmethod
    def of(cls, name: str, arguments: Sequence[Any]) -> "Call":
        """A call of the operator `name`, one of NAMES, with the arguments that torch hands over."""
        tensors, settings = split(name, arguments)
        if name in ("fprop", "dgrad"):
            first, second, bias = tensors
        else:
            (first, second), bias = tensors, None
        return cls(operator_of(name), (first, second), bias, name == "wgrad_with_bias", settings, first.device)

    @classmethod
    def of_geometry(
        cls,
        operator: Operator,
        geometry: ConvGeometry,
        factors: tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        *,
        finds_bias: bool = False,
        channels_last: bool = True,
        implementation: str = "auto",
    ) -> "Call":
        """A call for `geometry`, on factors of its shapes."""
        settings = Settings(
            size=geometry.size_of(LEAVES_OUT[operator]),
            stride=(geometry.stride_h, geometry.stride_w),
            pad=(geometry.pad_h, geometry.pad_w),
            dilation=(geometry.dilation_h, geometry.dilation_w),
            groups=geometry.G,
            varies=geometry.varies,
            channels_last=channels_last,
            implementation=implementation,
        )
        return cls(operator, factors, bias, finds_bias, settings, factors[0].device)

    @property
    def name(self) -> str:
        """What torch calls the operator: one of NAMES."""
        return "wgrad_with_bias" if self.finds_bias else self.operator

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What torch's operator takes: `of` with these gives this call again."""
        bias = () if self.operator == "wgrad" else (self.bias,)
        return *self.factors, *bias, *self.settings

    @cached_property
    def geometry(self) -> ConvGeometry:
        """Computed once, and not at all where such a call was planned before."""
        first, second = self.factors
        return geometry_of(self.operator, first.shape, second.shape, self.settings)

    @property
    def dtype(self) -> torch.dtype:
        """That of the factors and of the result."""
        return self.factors[0].dtype

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the factor that the operator leaves out."""
        return self.geometry.shape_of(LEAVES_OUT[self.operator])

    @property
    def result_is_channels_last(self) -> bool:
        """Whether the result has its channels last in memory: as the settings say, or if it is a weight that varies."""
        return self.settings.channels_last or (self.operator == "wgrad" and self.settings.varies != "")

    def without_data(self) -> "Call":
        """The same call on tensors without data, from which it can be planned and not computed."""
        first, second = map(without_data, self.factors)
        bias = None if self.bias is None else without_data(self.bias)
        return replace(self, factors=(first, second), bias=bias)

    def of_gradient(self, factor: Factor, gradient: Tensor) -> "Call":
        """The call in the backward pass that computes the gradient of `factor`, which this call takes, from that of its
        result.
        """
        held: dict[Factor, Tensor] = dict(zip(TAKES[self.operator], self.factors, strict=True))
        held[LEAVES_OUT[self.operator]] = gradient
        operator = COMPUTED_BY[factor]
        first, second = (held[name] for name in TAKES[operator])
        settings = self.settings._replace(size=self.geometry.size_of(factor))
        return Call(operator, (first, second), None, False, settings, self.device)


def without_data(tensor: Tensor) -> Tensor:
    """On the meta device a tensor has an address, which fake tensors do not: zero, aligned to anything."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
