"""`Call`: one call of an operator as a value, which is decided, planned, run, kept, explained and verified."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tritonconv.geometry import COMPUTED_BY, LEAVES_OUT, TAKES, ConvGeometry, Factor, Operator, taken
from tritonconv.settings import Settings, Sizes

# The operators that torch knows, and which of the three each of them is. `wgrad_with_bias` is wgrad, and also computes
# the gradient of fprop's bias.
OPERATOR_OF: dict[str, Operator] = {"fprop": "fprop", "dgrad": "dgrad", "wgrad": "wgrad", "wgrad_with_bias": "wgrad"}
OPERATOR_NAMES = tuple(OPERATOR_OF)
# The operators that add a bias to their result. It follows the two factors in their arguments.
ADD_BIAS = ("fprop", "dgrad")


def split_arguments(name: str, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], Settings]:
    """Return the tensors among the arguments of the operator `name`, and the settings that follow them.

    The tensors are the two factors, in the order of `geometry.TAKES`. For an operator in ADD_BIAS the bias, or None,
    comes third.
    """
    tensors = 3 if name in ADD_BIAS else 2
    return tuple(arguments[:tensors]), Settings.unpacked(*arguments[tensors:])


def join_arguments(name: str, factors: tuple[Any, Any], bias: Tensor | None, settings: Settings) -> tuple[Any, ...]:
    """Return the arguments of the operator `name`: the reverse of `split_arguments`."""
    return (*factors, bias, *settings.packed) if name in ADD_BIAS else (*factors, *settings.packed)


def geometry_of(operator: Operator, first: Sizes, second: Sizes, settings: Settings) -> ConvGeometry:
    """Return the geometry of a call of `operator` with these settings.

    `first` and `second` are the shapes of the factors in the order of `TAKES`. `settings.size` is the size of the
    result, in positions, pixels or taps. Whether the two shapes agree with each other is not checked.
    """
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


class Call:
    """One call of an operator.

    `name` is what torch calls the operator: one of OPERATOR_NAMES. `factors` are the two that it takes, in the order of
    `geometry.TAKES`. `bias` is the one that fprop and dgrad add to their result, or None. `finds_bias` says that wgrad
    also computes the gradient of fprop's bias. `device` is where the call runs, even if its tensors have no data and
    are on the meta device.

    Raise ValueError if `finds_bias` and the weight varies, because no kernel computes that.
    """

    settings: Settings
    name: str
    operator: Operator
    factors: tuple[Tensor, Tensor]
    bias: Tensor | None
    finds_bias: bool
    device: torch.device

    def __init__(self, name: str, arguments: Sequence[Any], device: torch.device | None = None) -> None:
        """Make a call from the arguments that torch passes. Without `device` it runs where its first tensor is."""
        (first, second, *bias), self.settings = split_arguments(name, arguments)
        self.name = name
        self.operator = OPERATOR_OF[name]
        self.factors = (first, second)
        self.bias = bias[0] if bias else None
        self.finds_bias = name == "wgrad_with_bias"
        self.device = first.device if device is None else device
        if self.finds_bias and self.settings.varies:
            raise ValueError("wgrad_with_bias is for a weight that does not vary: sum the features instead")

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
        device: torch.device | None = None,
    ) -> "Call":
        """Return a call for `geometry` on factors of its shapes, in the order of `geometry.TAKES`.

        Raise ValueError if there is a bias and the operator is wgrad, or if `finds_bias` and it is not wgrad.
        """
        if bias is not None and operator not in ADD_BIAS:
            raise ValueError(f"{operator} adds no bias")
        if finds_bias and operator != "wgrad":
            raise ValueError(f"{operator} does not find the gradient of a bias")
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
        name = "wgrad_with_bias" if finds_bias else operator
        return cls(name, join_arguments(name, factors, bias, settings), device)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of torch's operator."""
        return join_arguments(self.name, self.factors, self.bias, self.settings)

    @cached_property
    def geometry(self) -> ConvGeometry:
        """The geometry, which is computed at most once, and not at all if the plan cache has a plan for the call."""
        first, second = self.factors
        return geometry_of(self.operator, first.shape, second.shape, self.settings)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the factors and of the result."""
        return self.factors[0].dtype

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the factor that the operator computes. A gradient of the bias does not count."""
        return self.geometry.shape_of(LEAVES_OUT[self.operator])

    @property
    def result_is_channels_last(self) -> bool:
        """Whether the result has its channels last in memory.

        The settings say so, or it is what wgrad computes for a weight that varies.
        """
        return self.settings.channels_last or (self.operator == "wgrad" and self.settings.varies != "")

    def without_data(self) -> "Call":
        """Return the same call, for the same device, on tensors without data. It can be planned, but not computed."""
        arguments = (without_data(each) if isinstance(each, Tensor) else each for each in self.arguments)
        return Call(self.name, tuple(arguments), self.device)

    def of_gradient(self, factor: Factor, gradient: Tensor) -> "Call":
        """Return the call of the backward pass that computes the gradient of `factor`, which this call takes.

        `gradient` is that of this call's result. For the weight, the returned call is wgrad without the gradient of the
        bias. If the bias needs a gradient, too, the backward pass runs `wgrad_with_bias` instead, with the same tile.
        """
        held: dict[Factor, Tensor] = dict(zip(TAKES[self.operator], self.factors, strict=True))
        held[LEAVES_OUT[self.operator]] = gradient
        operator = COMPUTED_BY[factor]
        return Call.of_geometry(
            operator,
            self.geometry,
            taken(operator, held),
            channels_last=self.settings.channels_last,
            implementation=self.settings.implementation,
            device=self.device,
        )


def without_data(tensor: Tensor) -> Tensor:
    """Return a meta tensor of the same shape, strides and dtype.

    Its address is zero, which is aligned to anything. A fake tensor would have no address.
    """
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
