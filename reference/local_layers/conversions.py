"""What locally connected layers are made from, and made into: convolutions, and the weights of Keras 2 and Flax."""

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from tritonconv.reference.layers import Conv2d, ConvTranspose2d
from tritonconv.reference.local_layers import keras_and_flax
from tritonconv.reference.local_layers.keras_and_flax import same_everywhere
from tritonconv.reference.torch_rules.checks import Ints

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
        return spread(cls, conv, nn.Conv2d, input_size, bias)

    def to_conv2d(self: Any) -> nn.Conv2d:
        """The convolution that computes what this layer does. Raises ValueError unless all its locations agree."""
        conv: nn.Conv2d = gathered(self)
        return conv

    def load_keras(self, weights: Any) -> None:
        """Take over the weights of a Keras 2 LocallyConnected2D in channels_last: what its `get_weights()` returns.

        Arrays (P*Q, R*S*C, F) and, if there is a bias, (P, Q, F). Raises ValueError for other shapes, and groups.
        """
        keras_and_flax.load(self, weights, keras_and_flax.KERAS)

    def to_keras(self) -> list[Tensor]:
        """Copies of the weights for a Keras 2 LocallyConnected2D in channels_last: what its `set_weights()` takes."""
        return keras_and_flax.dump(self, keras_and_flax.KERAS)

    def load_flax(self, params: Any) -> None:
        """Take over the parameters of a Flax ConvLocal: `kernel` (P, Q, C*R*S, F) and, if there is one, `bias`
        (P, Q, F). Raises ValueError for other shapes, and groups.
        """
        arrays = [params["kernel"], *([params["bias"]] if "bias" in params else [])]
        keras_and_flax.load(self, arrays, keras_and_flax.FLAX)

    def to_flax(self) -> dict[str, Tensor]:
        """Copies of the parameters for a Flax ConvLocal."""
        return dict(zip(("kernel", "bias"), keras_and_flax.dump(self, keras_and_flax.FLAX), strict=False))


class OfConvTranspose2d(nn.Module):
    """The part of a LocallyConnectedTranspose2d that knows of ConvTranspose2d."""

    shared_class: type[nn.ConvTranspose2d] = ConvTranspose2d

    @classmethod
    def from_conv_transpose2d(cls, conv: nn.ConvTranspose2d, input_size: Ints, bias: bool | str = True) -> Self:
        """As `LocallyConnected2d.from_conv2d`."""
        return spread(cls, conv, nn.ConvTranspose2d, input_size, bias)

    def to_conv_transpose2d(self: Any) -> nn.ConvTranspose2d:
        """As `LocallyConnected2d.to_conv2d`."""
        conv: nn.ConvTranspose2d = gathered(self)
        return conv


def in_common(layer: Any) -> dict[str, Any]:
    """The arguments, but for the bias, of a convolution and a locally connected layer that correspond. No data yet."""
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if layer.transposed:
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names} | dict(device="meta", dtype=layer.weight.dtype)


def spread(cls: type[Layer], conv: Any, kind: Any, input_size: Ints, bias: bool | str) -> Layer:
    """A layer of class `cls` with a copy of the weight and bias of `conv`, one of `kind`, at each location."""
    if not isinstance(conv, kind) or isinstance(conv.weight, nn.UninitializedParameter):
        raise TypeError(f"expected a {kind.__name__} that has its parameters, but got {conv}")
    if conv.bias is not None and not bias:
        raise ValueError(f"{conv} has a bias, which a layer without one does not add")
    bias = bias if conv.bias is not None else False
    layer: Layer = getattr(cls, "cls_to_become", cls)(**in_common(conv), input_size=input_size, bias=bias)
    layer.to_empty(device=conv.weight.device)
    with torch.no_grad():
        for target, shared in ((layer.weight, conv.weight), (layer.bias, conv.bias)):
            if isinstance(target, Tensor):
                is_bias = shared.ndim == 1
                target.copy_(shared[:, None, None] if is_bias and target.ndim == 3 else shared)
                target.requires_grad_(shared.requires_grad)
    return layer.train(conv.training)


def gathered(layer: Any) -> Any:
    """The convolution with the weight and bias that all locations of `layer` have. ValueError if they differ."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    agree = same_everywhere(weight, (0, 1))
    if bias is not None and bias.ndim == 3:
        agree = agree and same_everywhere(bias, (1, 2))
        bias = bias[:, 0, 0]
    if not agree:
        raise ValueError(f"the locations of {layer} have different weights, which no convolution computes")
    conv = layer.shared_class(**in_common(layer), bias=bias is not None)
    conv.to_empty(device=weight.device)
    with torch.no_grad():
        for name, value in (("weight", weight[0, 0]), ("bias", bias)):
            if value is not None:
                target: Any = getattr(conv, name)
                target.copy_(value)
                target.requires_grad_(getattr(layer, name).requires_grad)
    return conv.train(layer.training)
