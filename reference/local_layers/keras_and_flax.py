"""Convert the weights of a `LocallyConnected2d` from and to the layouts of Keras 2 and Flax."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils import parametrize


class Format(NamedTuple):
    """The layout of another library's kernel, as an einops pattern of the letters of the weight p q f c r s.

    `library` is the name of the library in error messages.
    """

    library: str
    kernel: str


# Keras 2 flattens a patch in the order rows, columns, channels (keras/backend.py, local_conv). JAX puts channels first
# (jax.lax.conv_general_dilated_patches), and Flax follows JAX.
KERAS = Format("Keras", "(p q) (r s c) f")
FLAX = Format("Flax", "p q (c r s) f")


def load(layer: Any, arrays: Sequence[Any], format: Format) -> None:
    """Copy `arrays`, which are a kernel and, if the layer has a bias, a bias, into a `LocallyConnected2d`.

    Raise ValueError, and copy nothing, if an array is missing or has a wrong shape, or if the layer has groups. The
    same holds if the layer has one bias for all locations, but the given bias differs between locations. It also holds
    if the layer is parametrized, because its weight is computed from other tensors.
    """
    if parametrize.is_parametrized(layer):
        raise ValueError(f"{layer} is parametrized: load the {format.library} weights before that")
    # as_tensor would warn about read-only arrays, and those of JAX are read-only.
    tensors = [array if isinstance(array, Tensor) else torch.tensor(array) for array in arrays]
    wanted = [list(tensor.shape) for tensor in arranged(layer, format, device="meta")]
    given = [list(tensor.shape) for tensor in tensors]
    if given != wanted:
        raise ValueError(f"expected {format.library} weights of shapes {wanted} for {layer}, but got shapes {given}")
    P, Q, _, _, R, S = layer.weight.shape
    found = [rearrange(tensors[0], f"{format.kernel} -> p q f c r s", p=P, q=Q, r=R, s=S)]
    if layer.bias is not None:
        bias = rearrange(tensors[1], "p q f -> f p q")
        if layer.bias.ndim == 1 and not same_everywhere(bias, (1, 2)):
            raise ValueError(
                f"the {format.library} bias differs between locations, but {layer} has one bias for all locations"
            )
        found.append(bias[:, 0, 0] if layer.bias.ndim == 1 else bias)
    with torch.no_grad():
        for target, source in zip((layer.weight, layer.bias), found, strict=False):
            target.copy_(source)


def dump(layer: Any, format: Format) -> list[Tensor]:
    """Return a copy of the weight and, if there is one, of the bias, in the layout of `format`.

    Raise ValueError if the layer has groups.
    """
    return [tensor.clone() for tensor in arranged(layer, format)]


def arranged(layer: Any, format: Format, device: str | None = None) -> list[Tensor]:
    """Return the weight and, if there is one, the bias as (P, Q, F), in the layout of `format`.

    A tensor is a view of the parameter if its memory allows that, else a copy. A bias of shape (F,) is repeated at each
    location. None leaves the tensors on the layer's device. On the device "meta" they have shapes but no data.

    Raise ValueError if the layer has groups.
    """
    if layer.groups != 1:
        raise ValueError(
            f"the locally connected layer of {format.library} has no groups, but got groups={layer.groups}"
        )
    weight = layer.weight.detach().to(device)
    found = [rearrange(weight, f"p q f c r s -> {format.kernel}")]
    if layer.bias is not None:
        bias = layer.bias.detach().to(device)
        everywhere = bias[:, None, None].expand(-1, *weight.shape[:2]) if bias.ndim == 1 else bias
        found.append(rearrange(everywhere, "f p q -> p q f"))
    return found


def same_everywhere(tensor: Tensor, locations: tuple[int, int]) -> bool:
    """Whether `tensor` has exactly the same values at all locations, which lie along the two given dimensions.

    A NaN differs from every value, itself included.
    """
    first = tensor.narrow(locations[0], 0, 1).narrow(locations[1], 0, 1)
    return bool((tensor == first).all())
