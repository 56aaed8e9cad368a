"""Weights of a locally connected layer from elsewhere, and for elsewhere: convolutions, Keras 2 and Flax."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


class Format(NamedTuple):
    """How the kernel of another library lies beside the weight p q f c r s."""

    library: str
    kernel: str


# Keras 2 flattens patches of an image (h, w, c) in that order (keras/backend.py, local_conv). JAX orders them by
# channels first (jax.lax.conv_general_dilated_patches), and Flax follows it.
KERAS = Format("Keras", "(p q) (r s c) f")
FLAX = Format("Flax", "p q (c r s) f")


def load(layer: Any, arrays: Sequence[Any], format: Format) -> None:
    """Copy a kernel, and a bias if there is one, into a LocallyConnected2d. Nothing is copied if something is wrong."""
    weight, bias, tensors = layer.weight, layer.bias, [torch.as_tensor(array) for array in arrays]
    wanted = [list(tensor.shape) for tensor in dump(layer, format)]
    given = [list(tensor.shape) for tensor in tensors]
    if given != wanted:
        raise ValueError(f"expected {format.library} weights of shapes {wanted} for {layer}, but got {given}")
    P, Q, _, _, R, S = weight.shape
    with torch.no_grad():
        weight.copy_(rearrange(tensors[0], f"{format.kernel} -> p q f c r s", p=P, q=Q, r=R, s=S))
        if bias is not None:
            bias.copy_(rearrange(tensors[1], "p q f -> f p q"))


def dump(layer: Any, format: Format) -> list[Tensor]:
    """Copies of the weights of a LocallyConnected2d."""
    if layer.groups != 1:
        raise ValueError(f"{format.library} has no groups, but got groups={layer.groups}")
    P, Q = layer.weight.shape[:2]
    found = [rearrange(layer.weight.detach(), f"p q f c r s -> {format.kernel}").clone()]
    if layer.bias is not None:
        bias = layer.bias.detach()
        spread = bias[:, None, None].expand(-1, P, Q) if bias.ndim == 1 else bias
        found.append(rearrange(spread, "f p q -> p q f").clone())
    return found


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
    agree = bool((weight == weight[:1, :1]).all())
    if bias is not None and bias.ndim == 3:
        agree = agree and bool((bias == bias[:, :1, :1]).all())
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
