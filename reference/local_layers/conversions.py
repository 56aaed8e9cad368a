"""Convert locally connected layers from and to convolutions, and their weights from and to Keras 2 and Flax."""

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from tritonconv.reference.layers import Conv2d, ConvTranspose2d
from tritonconv.reference.local_layers import keras_and_flax
from tritonconv.reference.local_layers.keras_and_flax import same_everywhere
from tritonconv.reference.torch_rules.checks import Ints

Layer = TypeVar("Layer", bound=nn.Module)


class OfConv2d(nn.Module):
    """The conversions of a `LocallyConnected2d`: from and to `Conv2d`, Keras 2 and Flax.

    `shared_class` is the class of the convolution that `to_conv2d` makes.
    """

    shared_class: type[nn.Conv2d] = Conv2d

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, input_size: Ints, bias: bool | str = True) -> Self:
        """Return a layer that computes what `conv` does, with a copy of its filters at each location.

        Args:
            conv: the convolution, of class `torch.nn.Conv2d` or a subclass.
            input_size: the size of the layer's images in pixels, before padding. (H, W), or one int for both.
            bias: True copies the bias to each location. "shared" keeps one number per filter. A convolution without
                a bias gives a layer without one.

        Raises:
            TypeError: `conv` has another class, or is a lazy layer whose parameters are not initialized yet.
            ValueError: `conv` has a bias and `bias` is False.

        >>> import torch
        >>> from tritonconv import reference
        >>> conv = torch.nn.Conv2d(3, 8, kernel_size=3, padding=1)
        >>> layer = reference.LocallyConnected2d.from_conv2d(conv, input_size=(10, 12))
        >>> image = torch.randn(2, 3, 10, 12)
        >>> bool((layer(image) - conv(image)).abs().max() < 1e-5)
        True
        """
        return spread(cls, conv, nn.Conv2d, input_size, bias)

    def to_conv2d(self: Any) -> nn.Conv2d:
        """Return a convolution that computes what this layer does.

        Raises ValueError if weight or bias differ between locations.
        """
        conv: nn.Conv2d = gathered(self)
        return conv

    def load_keras(self, weights: Any) -> None:
        """Copy the weights of a Keras 2 `LocallyConnected2D` in the data format channels_last into this layer.

        `weights` is what `get_weights()` returns there: an array (P*Q, R*S*C, F) and, if there is a bias, one of shape
        (P, Q, F). Raises ValueError for other shapes, for a layer with groups, and if this layer's bias is shared but
        the given one differs between locations.
        """
        keras_and_flax.load(self, weights, keras_and_flax.KERAS)

    def to_keras(self) -> list[Tensor]:
        """Return copies of the weights for `set_weights()` of a Keras 2 `LocallyConnected2D` in channels_last.

        The shapes are those of `load_keras`. Raises ValueError for a layer with groups.
        """
        return keras_and_flax.dump(self, keras_and_flax.KERAS)

    def load_flax(self, params: Any) -> None:
        """Copy the parameters of a Flax `ConvLocal` into this layer.

        `params` has a `kernel` (P, Q, C*R*S, F) and, if there is a bias, a `bias` (P, Q, F). Raises ValueError for
        other shapes, for a layer with groups, and if this layer's bias is shared but the given one differs between
        locations.
        """
        arrays = [params["kernel"], *([params["bias"]] if "bias" in params else [])]
        keras_and_flax.load(self, arrays, keras_and_flax.FLAX)

    def to_flax(self) -> dict[str, Tensor]:
        """Return copies of the parameters as a Flax `ConvLocal` takes them, in the shapes of `load_flax`.

        Raises ValueError for a layer with groups.
        """
        return dict(zip(("kernel", "bias"), keras_and_flax.dump(self, keras_and_flax.FLAX), strict=False))


class OfConvTranspose2d(nn.Module):
    """The conversions of a `LocallyConnectedTranspose2d`: from and to `ConvTranspose2d`.

    `shared_class` is the class of the convolution that `to_conv_transpose2d` makes.
    """

    shared_class: type[nn.ConvTranspose2d] = ConvTranspose2d

    @classmethod
    def from_conv_transpose2d(cls, conv: nn.ConvTranspose2d, input_size: Ints, bias: bool | str = True) -> Self:
        """Return a layer that computes what `conv` does, with a copy of its filters at each location.

        Arguments and errors are those of `LocallyConnected2d.from_conv2d`, except that `input_size` is (P, Q).
        """
        return spread(cls, conv, nn.ConvTranspose2d, input_size, bias)

    def to_conv_transpose2d(self: Any) -> nn.ConvTranspose2d:
        """Return a convolution that computes what this layer does.

        Raises ValueError if weight or bias differ between locations.
        """
        conv: nn.ConvTranspose2d = gathered(self)
        return conv


def in_common(layer: Any) -> dict[str, Any]:
    """Return the constructor arguments that a convolution and the corresponding local layer share, except the bias.

    They put the new layer on the device "meta", so that no numbers are drawn for weights that are then replaced.
    """
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if layer.transposed:
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names} | dict(device="meta", dtype=layer.weight.dtype)


def spread(cls: type[Layer], conv: Any, kind: Any, input_size: Ints, bias: bool | str) -> Layer:
    """Return a layer of class `cls` with a copy of the weight and bias of `conv` at each location.

    `kind` is the class of torch.nn that `conv` must have. `from_conv2d` lists the errors.
    """
    if not isinstance(conv, kind) or isinstance(conv.weight, nn.UninitializedParameter):
        raise TypeError(f"expected a torch.nn.{kind.__name__} with initialized parameters, but got {conv}")
    if conv.bias is not None and not bias:
        raise ValueError(f"bias=False would drop the bias of {conv}: use True or 'shared'")
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
    """Return the convolution with the weight and bias that all locations of `layer` have.

    Raises ValueError if they differ between locations.
    """
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    agree = same_everywhere(weight, (0, 1))
    if bias is not None and bias.ndim == 3:
        agree = agree and same_everywhere(bias, (1, 2))
        bias = bias[:, 0, 0]
    if not agree:
        raise ValueError(f"a convolution has the same weight and bias at all locations, but those of {layer} differ")
    conv = layer.shared_class(**in_common(layer), bias=bias is not None)
    conv.to_empty(device=weight.device)
    with torch.no_grad():
        for name, value in (("weight", weight[0, 0]), ("bias", bias)):
            if value is not None:
                target: Any = getattr(conv, name)
                target.copy_(value)
                target.requires_grad_(getattr(layer, name).requires_grad)
    return conv.train(layer.training)
