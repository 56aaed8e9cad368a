"""Weights of a locally connected layer from, and for, Keras 2 and Flax."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor


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
    # as_tensor would warn of arrays that can not be written to, which those of JAX are.
    tensors = [array if isinstance(array, Tensor) else torch.tensor(array) for array in arrays]
    wanted = [list(tensor.shape) for tensor in arranged(layer, format, device="meta")]
    given = [list(tensor.shape) for tensor in tensors]
    if given != wanted:
        raise ValueError(f"expected {format.library} weights of shapes {wanted} for {layer}, but got {given}")
    P, Q, _, _, R, S = layer.weight.shape
    found = [rearrange(tensors[0], f"{format.kernel} -> p q f c r s", p=P, q=Q, r=R, s=S)]
    if layer.bias is not None:
        bias = rearrange(tensors[1], "p q f -> f p q")
        if layer.bias.ndim == 1 and not same_everywhere(bias, (1, 2)):
            raise ValueError(f"the locations of the {format.library} bias differ, but {layer} has one bias for all")
        found.append(bias[:, 0, 0] if layer.bias.ndim == 1 else bias)
    with torch.no_grad():
        for target, source in zip((layer.weight, layer.bias), found, strict=False):
            target.copy_(source)


def dump(layer: Any, format: Format) -> list[Tensor]:
    """Copies of the weights of a LocallyConnected2d."""
    return [tensor.clone() for tensor in arranged(layer, format)]


def arranged(layer: Any, format: Format, device: str | None = None) -> list[Tensor]:
    """Weight, and bias if there is one, of a LocallyConnected2d as `format` has them; on the device "meta" the shapes
    alone. Raises ValueError for groups.
    """
    if layer.groups != 1:
        raise ValueError(f"{format.library} has no groups, but got groups={layer.groups}")
    weight = layer.weight.detach().to(device)
    found = [rearrange(weight, f"p q f c r s -> {format.kernel}")]
    if layer.bias is not None:
        bias = layer.bias.detach().to(device)
        everywhere = bias[:, None, None].expand(-1, *weight.shape[:2]) if bias.ndim == 1 else bias
        found.append(rearrange(everywhere, "f p q -> p q f"))
    return found


def same_everywhere(tensor: Tensor, locations: tuple[int, int]) -> bool:
    """Whether nothing varies along the two dimensions of the locations."""
    first = tensor.narrow(locations[0], 0, 1).narrow(locations[1], 0, 1)
    return bool((tensor == first).all())
