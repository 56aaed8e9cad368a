"""Convert locally connected layers from and to convolutions, and their weights from and to Keras 2 and Flax."""

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from tritonconv.reference.layers import Conv2d, ConvTranspose2d
from tritonconv.reference.local_layers import keras_and_flax
from tritonconv.reference.local_layers.keras_and_flax import same_everywhere
from tritonconv.reference.torch_rules.checks import Ints
from tritonconv.reference.torch_rules.overrides import why_not_as_torch

Layer = TypeVar("Layer", bound=nn.Module)


class OfConv2d(nn.Module):
    """The conversions of a `LocallyConnected2d`: from and to `Conv2d`, Keras 2 and Flax.

    `shared_class` is the class of the convolution that `to_conv2d` returns.
    """

    shared_class: type[nn.Conv2d] = Conv2d

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, input_size: Ints, bias: bool | str = True) -> Self:
        """Return a layer that computes what `conv` does, with a copy of its filters at each location.

        The layer takes over the device, the dtype, `requires_grad` of each parameter, and the training mode.

        Args:
            conv: the convolution, of class `torch.nn.Conv2d` or a subclass. A parametrized one, by
                `torch.nn.utils.parametrizations.weight_norm` for example, is converted with the weight that it uses.
            input_size: the size of the layer's images in pixels, before padding. (H, W), or one int for both.
            bias: True copies the bias to each location. "shared" keeps one number per filter. If `conv` has no bias,
                the layer has none, whatever this argument is.

        Returns:
            A layer of this class, or of the class that a lazy class becomes. Its parameters share no memory with those
            of `conv`.

        Raises:
            TypeError: `conv` has another class, or is a lazy layer that had no input yet. Also if it may compute
                something else than `torch.nn.Conv2d`: its class overrides `forward` or `_conv_forward`, its `forward`
                was replaced, or it has hooks, as pruning and `torch.nn.utils.weight_norm` add.
            ValueError: `conv` has a bias, and `bias` is False or another string than "shared".
            TypeError, RuntimeError: the constructor refuses `input_size`.

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
        """Return a convolution that computes what this layer does, if all locations have equal filters and biases.

        The filters and biases of the convolution are copies. It also takes over the device, the dtype, `requires_grad`
        of each parameter, and the training mode.

        Raises:
            ValueError: filters or biases are not exactly equal at all locations, or the parameters of a lazy layer are
                not initialized yet.
            TypeError: the layer overrides what computes, or has hooks, as for `from_conv2d`.

        >>> import torch
        >>> from tritonconv import reference
        >>> conv = torch.nn.Conv2d(3, 8, kernel_size=3, padding=1)
        >>> layer = reference.LocallyConnected2d.from_conv2d(conv, input_size=(10, 12))
        >>> same = layer.to_conv2d()
        >>> bool((same.weight == conv.weight).all() and (same.bias == conv.bias).all())
        True
        """
        conv: nn.Conv2d = gathered(self)
        return conv

    def load_keras(self, weights: Any) -> None:
        """Copy the weights of a Keras 2 `LocallyConnected2D` in the data format channels_last into this layer.

        Args:
            weights: what `get_weights()` of the Keras layer returns: an array (P*Q, R*S*C, F) and, if this layer has a
                bias, one of shape (P, Q, F).

        Raises:
            ValueError: an array is missing, superfluous or of another shape, or this layer has groups. Also if this
                layer's bias has the shape (F,), but the given bias differs between locations. Nothing is copied then.
        """
        keras_and_flax.load(self, weights, keras_and_flax.KERAS)

    def to_keras(self) -> list[Tensor]:
        """Return copies of the weights for `set_weights()` of a Keras 2 `LocallyConnected2D` in channels_last.

        Returns:
            Tensors of the shapes that `load_keras` takes. A bias of shape (F,) is repeated at each location.

        Raises:
            ValueError: this layer has groups.
        """
        return keras_and_flax.dump(self, keras_and_flax.KERAS)

    def load_flax(self, params: Any) -> None:
        """Copy the parameters of a Flax `ConvLocal` into this layer.

        Args:
            params: a mapping with a `kernel` (P, Q, C*R*S, F) and, if this layer has a bias, a `bias` (P, Q, F).

        Raises:
            KeyError: there is no `kernel`.
            ValueError: as `load_keras`. Nothing is copied then.
        """
        arrays = [params["kernel"], *([params["bias"]] if "bias" in params else [])]
        keras_and_flax.load(self, arrays, keras_and_flax.FLAX)

    def to_flax(self) -> dict[str, Tensor]:
        """Return copies of the parameters for a Flax `ConvLocal`.

        Returns:
            A dict with the tensors `kernel` and, if this layer has a bias, `bias`, in the shapes that `load_flax`
            takes. A bias of shape (F,) is repeated at each location.

        Raises:
            ValueError: this layer has groups.
        """
        return dict(zip(("kernel", "bias"), keras_and_flax.dump(self, keras_and_flax.FLAX), strict=False))


class OfConvTranspose2d(nn.Module):
    """The conversions of a `LocallyConnectedTranspose2d`: from and to `ConvTranspose2d`.

    `shared_class` is the class of the convolution that `to_conv_transpose2d` returns.
    """

    shared_class: type[nn.ConvTranspose2d] = ConvTranspose2d

    @classmethod
    def from_conv_transpose2d(cls, conv: nn.ConvTranspose2d, input_size: Ints, bias: bool | str = True) -> Self:
        """Return a layer that computes what `conv` does, with a copy of its filters at each location.

        Arguments, result and errors are those of `LocallyConnected2d.from_conv2d`, with two differences: `conv` is a
        `torch.nn.ConvTranspose2d`, and `input_size` is (P, Q), the size of its input.

        >>> import torch
        >>> from tritonconv import reference
        >>> conv = torch.nn.ConvTranspose2d(8, 3, kernel_size=3, stride=2)
        >>> layer = reference.LocallyConnectedTranspose2d.from_conv_transpose2d(conv, input_size=(5, 6))
        >>> features = torch.randn(2, 8, 5, 6)
        >>> bool((layer(features) - conv(features)).abs().max() < 1e-5)
        True
        """
        return spread(cls, conv, nn.ConvTranspose2d, input_size, bias)

    def to_conv_transpose2d(self: Any) -> nn.ConvTranspose2d:
        """Return a transposed convolution that computes what this layer does, if all locations have equal parameters.

        The filters and biases of the convolution are copies. It also takes over the device, the dtype, `requires_grad`
        of each parameter, and the training mode.

        Raises:
            ValueError: filters or biases are not exactly equal at all locations, or the parameters of a lazy layer are
                not initialized yet.
            TypeError: the layer overrides what computes, or has hooks, as for `from_conv_transpose2d`.

        >>> import torch
        >>> from tritonconv import reference
        >>> conv = torch.nn.ConvTranspose2d(8, 3, kernel_size=3, stride=2)
        >>> layer = reference.LocallyConnectedTranspose2d.from_conv_transpose2d(conv, input_size=(5, 6))
        >>> same = layer.to_conv_transpose2d()
        >>> bool((same.weight == conv.weight).all() and (same.bias == conv.bias).all())
        True
        """
        conv: nn.ConvTranspose2d = gathered(self)
        return conv


def used(layer: Any) -> dict[str, Any]:
    """Return the weight and bias with which the layer computes, each read once. A bias may be None.

    A parametrized tensor is computed when it is read. It requires a gradient if what it is computed from does. It is
    computed in evaluation mode, in which spectral_norm does not change its own buffers.
    """
    modules = [*layer.parametrizations.modules()] if parametrize.is_parametrized(layer) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.enable_grad():
            return dict(weight=layer.weight, bias=layer.bias)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def in_common(layer: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the constructor arguments that a convolution and the corresponding local layer share, except the bias.

    They also hold this dtype, and the device "meta", so that no numbers are drawn for weights that are then replaced.
    """
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if layer.transposed:
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names} | dict(device="meta", dtype=dtype)


def check_computes(layer: nn.Module, expected: str) -> None:
    """Raise TypeError if `layer` may compute something else than the class `expected` does with the same weight."""
    if reason := why_not_as_torch(layer):
        raise TypeError(
            f"expected a layer that computes what {expected} does, but {reason}, which the new layer would not run. "
            "Convert one of that class with the weight that is really used. Remove hooks first; "
            "torch.nn.utils.prune.remove and torch.nn.utils.remove_weight_norm keep the weight"
        )


def spread(cls: type[Layer], conv: Any, kind: Any, input_size: Ints, bias: bool | str) -> Layer:
    """Return a layer of class `cls` with a copy of the weight and bias of `conv` at each location.

    `kind` is the class of torch.nn that `conv` must have. `from_conv2d` describes `bias` and lists the errors.
    """
    if not isinstance(conv, kind) or isinstance(conv, LazyModuleMixin):
        raise TypeError(f"expected a torch.nn.{kind.__name__} with initialized parameters, but got {conv}")
    check_computes(conv, f"torch.nn.{kind.__name__}")
    parameters = used(conv)
    if parameters["bias"] is not None and not bias:
        raise ValueError(f"bias=False would drop the bias of {conv}: use True or 'shared'")
    bias = bias if parameters["bias"] is not None else False
    arguments = in_common(conv, parameters["weight"].dtype)
    layer: Layer = getattr(cls, "cls_to_become", cls)(**arguments, input_size=input_size, bias=bias)
    layer.to_empty(device=parameters["weight"].device)
    fill(layer, parameters["weight"], parameters["bias"], parameters)
    return layer.train(conv.training)


def fill(layer: Any, weight: Tensor, bias: Tensor | None, like: dict[str, Any]) -> None:
    """Copy the weight and the bias, if there is one, into the parameters of `layer`.

    A bias (F,) is copied to each location if the layer's bias varies over them. A parameter requires a gradient if the
    tensor of its name in `like` does.
    """
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias[:, None, None] if layer.bias.ndim == 3 else bias)
    for name, tensor in like.items():
        if tensor is not None:
            getattr(layer, name).requires_grad_(tensor.requires_grad)


def gathered(layer: Any) -> Any:
    """Return a convolution, of the class `layer.shared_class`, with copies of the weight and bias of one location.

    Raise ValueError unless they are exactly equal at all locations, and TypeError if the layer overrides what computes.
    """
    parameters = used(layer)
    weight, bias = parameters["weight"].detach(), parameters["bias"]
    check_computes(layer, f"LocallyConnected{'Transpose' * layer.transposed}2d")
    bias = None if bias is None else bias.detach()
    agree = same_everywhere(weight, (0, 1))
    if bias is not None and bias.ndim == 3:
        agree = agree and same_everywhere(bias, (1, 2))
        bias = bias[:, 0, 0]
    if not agree:
        raise ValueError(f"a convolution has the same weight and bias at all locations, but those of {layer} differ")
    conv = layer.shared_class(**in_common(layer, weight.dtype), bias=bias is not None)
    conv.to_empty(device=weight.device)
    fill(conv, weight[0, 0], bias, parameters)
    return conv.train(layer.training)
