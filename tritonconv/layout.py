"""How operands lie in memory: what may be loaded and stored at once, and the copies that make it more."""

from collections.abc import Sequence

import torch
from torch import Tensor


def allocate(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory on `like`'s device, and of its dtype if none is given: all results and workspaces."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def adjacent(side: Tensor, channels: int) -> tuple[Tensor, int]:
    """An image or features, or, where a copy lets whole 16-byte vectors be loaded, one with its channels adjacent.

    `channels` counts those of one group. The second result is its `alignment`.
    """
    vector, align = 16 // side.element_size(), alignment(side, channels)
    if channels % vector or align == vector:
        return side, align
    return side.clone(memory_format=torch.channels_last), vector


def filters_last(weight: Tensor) -> Tensor:
    """The weight (F, C/G, R, S) with its elements in the order (F, R, S, C/G), without gaps, aligned to 16 bytes."""
    return aligned(weight.permute(0, 2, 3, 1).contiguous())


def channels_first(weight: Tensor, groups: int) -> Tensor:
    """The weight (F, C/G, R, S) with its elements in the order (G, C/G, R, S, F/G), otherwise as `filters_last`."""
    return aligned(weight.unflatten(0, (groups, -1)).permute(0, 2, 3, 4, 1).contiguous())


def aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def alignment(side: Tensor, channels: int) -> int:
    """How many adjacent channels one load may take: 16 bytes of them, 4 bytes, or 1 channel.

    Every pixel and every group of `channels` must start at a multiple of it. What lies between is taken for the next
    less: each width is one more variant to compile.
    """
    along_b, along_c, along_h, along_w = side.stride()
    if along_c != 1:
        return 1
    starts = (along_b, along_h, along_w, channels)
    for bytes_at_once in (16, 4):
        vector = bytes_at_once // side.element_size()
        if side.data_ptr() % 16 == 0 and not any(start % vector for start in starts):
            return vector
    return 1


def whole_stores(side: Tensor, channels: int) -> int:
    """How many adjacent channels one store takes: 16 bytes of them, or 1."""
    vector = 16 // side.element_size()
    return vector if alignment(side, channels) == vector else 1


def wide(side: Tensor) -> bool:
    """Whether the offset of some element does not fit in 32 bits."""
    return sum((n - 1) * stride for n, stride in zip(side.shape, side.stride(), strict=True)) >= 2**31
