"""What locally connected layers are made from, and made into: convolutions, and the weights of Keras 2 and Flax."""

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from reference import interchange
from reference.checks import Ints
from reference.interchange import same_everywhere
from reference.layers import Conv2d, ConvTranspose2d

Layer = TypeVar("Layer", bound=nn.Module)


class OfConv2d(nn.Module):
    """The part of a LocallyConnected2d that knows of Conv2d, Keras and Flax."""

    shared_class: type[nn.Conv2d] = Conv2d

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, input_size: Ints, bias: bool | str = True) -> Self:
        """The layer that computes what `conv` does, with a copy of its filters, and bias, at each location.

        `bias="shared"` keeps the bias as it is. A convolution without a bias gives a layer without one. Raises
        ValueError where a bias would be dropped.
        """
        has_bias = bias_for(conv, nn.Conv2d, bias)
        arguments = (conv.kernel_size, input_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        layer: Self = getattr(cls, "cls_to_become", cls)(
            conv.in_channels,
            conv.out_channels,
            *arguments,
            bias=has_bias,
            padding_mode=conv.padding_mode,
            device="meta",
            dtype=conv.weight.dtype,
        )
        return spread(conv, layer)

    def to_conv2d(self: Any) -> nn.Conv2d:
        """The convolution that computes what this layer does. Raises ValueError unless all its locations agree."""
        arguments = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        conv = self.shared_class(
            self.in_channels,
            self.out_channels,
            *arguments,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
            device="meta",
            dtype=self.weight.dtype,
        )
        filled: nn.Conv2d = gathered(self, conv)
        return filled

    def load_keras(self, weights: Any) -> None:
        """Take over the weights of a Keras 2 LocallyConnected2D in channels_last: what its `get_weights()` returns.

        Arrays (P*Q, R*S*C, F) and, if there is a bias, (P, Q, F). Raises ValueError for other shapes, and groups.
        """
        interchange.load(self, weights, interchange.KERAS)

    def to_keras(self) -> list[Tensor]:
        """Copies of the weights for a Keras 2 LocallyConnected2D in channels_last: what its `set_weights()` takes."""
        return interchange.dump(self, interchange.KERAS)

    def load_flax(self, params: Any) -> None:
        """Take over the parameters of a Flax ConvLocal: `kernel` (P, Q, C*R*S, F) and, if there is one, `bias`
        (P, Q, F). Raises ValueError for other shapes, and groups.
        """
        arrays = [params["kernel"], *([params["bias"]] if "bias" in params else [])]
        interchange.load(self, arrays, interchange.FLAX)

    def to_flax(self) -> dict[str, Tensor]:
        """Copies of the parameters for a Flax ConvLocal."""
        return dict(zip(("kernel", "bias"), interchange.dump(self, interchange.FLAX), strict=False))


class OfConvTranspose2d(nn.Module):
    """The part of a LocallyConnectedTranspose2d that knows of ConvTranspose2d."""

    shared_class: type[nn.ConvTranspose2d] = ConvTranspose2d

    @classmethod
    def from_conv_transpose2d(cls, conv: nn.ConvTranspose2d, input_size: Ints, bias: bool | str = True) -> Self:
        """As `LocallyConnected2d.from_conv2d`."""
        has_bias = bias_for(conv, nn.ConvTranspose2d, bias)
        arguments = (conv.kernel_size, input_size, conv.stride, conv.padding, conv.output_padding, conv.groups)
        layer: Self = getattr(cls, "cls_to_become", cls)(
            conv.in_channels,
            conv.out_channels,
            *arguments,
            bias=has_bias,
            dilation=conv.dilation,
            device="meta",
            dtype=conv.weight.dtype,
        )
        return spread(conv, layer)

    def to_conv_transpose2d(self: Any) -> nn.ConvTranspose2d:
        """As `LocallyConnected2d.to_conv2d`."""
        arguments = (self.kernel_size, self.stride, self.padding, self.output_padding, self.groups)
        conv = self.shared_class(
            self.in_channels,
            self.out_channels,
            *arguments,
            bias=self.bias is not None,
            dilation=self.dilation,
            device="meta",
            dtype=self.weight.dtype,
        )
        filled: nn.ConvTranspose2d = gathered(self, conv)
        return filled


def bias_for(conv: Any, kind: type[nn.Module], bias: bool | str) -> bool | str:
    """The kind of bias of the layer that is to compute what `conv`, one of `kind`, does."""
    if not isinstance(conv, kind) or isinstance(conv.weight, nn.UninitializedParameter):
        raise TypeError(f"expected a {kind.__name__} that has its parameters, but got {conv}")
    if conv.bias is not None and not bias:
        raise ValueError(f"{conv} has a bias, which a layer without one does not add")
    return bias if conv.bias is not None else False


def spread(conv: Any, layer: Layer) -> Layer:
    """`layer`, so far without data, with a copy of the convolution's weight and bias at each location."""
    layer.to_empty(device=conv.weight.device)
    with torch.no_grad():
        for target, shared in ((layer.weight, conv.weight), (layer.bias, conv.bias)):
            if isinstance(target, Tensor):
                is_bias = shared.ndim == 1
                target.copy_(shared[:, None, None] if is_bias and target.ndim == 3 else shared)
                target.requires_grad_(shared.requires_grad)
    return layer.train(conv.training)


def gathered(layer: Any, conv: Layer) -> Layer:
    """`conv`, so far without data, with the weight and bias that all locations of `layer` have."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    agree = same_everywhere(weight, (0, 1))
    if bias is not None and bias.ndim == 3:
        agree = agree and same_everywhere(bias, (1, 2))
        bias = bias[:, 0, 0]
    if not agree:
        raise ValueError(f"the locations of {layer} have different weights, which no convolution computes")
    conv.to_empty(device=weight.device)
    with torch.no_grad():
        for name, value in (("weight", weight[0, 0]), ("bias", bias)):
            if value is not None:
                target: Any = getattr(conv, name)
                target.copy_(value)
                target.requires_grad_(getattr(layer, name).requires_grad)
    return conv.train(layer.training)
