"""How operands lie in memory: what may be loaded and stored at once, and the copies that make it more."""

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tritonconv.bias import broadcastable
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry


def allocate(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory on `like`'s device, and of its dtype if none is given: all results and workspaces."""
    at: dict[str, Any] = dict(dtype=dtype or like.dtype, device=like.device)
    dims = len(shape)
    if channels_last and dims > 4:
        return torch.empty_permuted(tuple(shape), (*range(dims - 3), dims - 2, dims - 1, dims - 3), **at)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), memory_format=memory_format, **at)


def allocate_results(call: Call, like: Tensor) -> tuple[Tensor, ...]:
    """Uninitialised memory for the result of `call`, and for the gradient of a bias that it finds."""
    result = allocate(call.result_shape, like, call.result_is_channels_last)
    return (result, allocate((call.geometry.F,), like, False)) if call.finds_bias else (result,)


def allocate_as(layout: Tensor, device: torch.device) -> Tensor:
    """Uninitialised memory on `device` for a tensor that lies as this one, which may be without data."""
    return torch.empty_strided(layout.shape, layout.stride(), dtype=layout.dtype, device=device)


def bias_strides(bias: Tensor | None, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a bias beside a result of this shape: zero where it does not vary."""
    return (0, 0, 0, 0) if bias is None else broadcastable(bias).expand(shape).stride()


def adjacent_channels(side: Tensor, channels: int) -> Tensor:
    """An image or features, or, where a copy lets whole 16-byte vectors be loaded, one with its channels adjacent.

    `channels` counts those of one group.
    """
    vector = 16 // side.element_size()
    if channels % vector or alignment(side, channels) == vector:
        return side
    return side.clone(memory_format=torch.channels_last)


def weight_channels_last(weight: Tensor) -> Tensor:
    """The weight (..., F, C/G, R, S) with its elements in the order (..., F, R, S, C/G), without gaps, aligned to 16
    bytes: as one that varies usually lies.
    """
    return aligned(weight.movedim(-3, -1).contiguous())


def weight_filters_last(weight: Tensor, groups: int, multiple: int = 1) -> Tensor:
    """The weight (F, C/G, R, S) with its elements in the order (G, C/G, R, S, F/G), otherwise as
    `weight_channels_last`; with zeros behind F/G up to a multiple of so many.
    """
    lying = weight.unflatten(0, (groups, -1)).permute(0, 2, 3, 4, 1)
    missing = -lying.shape[-1] % multiple
    return aligned(pad(lying, (0, missing)) if missing else lying.contiguous())


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


def paired_vectors(x: int, y: int, whole: int) -> tuple[int, int]:
    """How many elements the loads of two sides take, if each may take so many, and `whole` vectors have most: each pair
    is one more variant to compile. Beside single elements there are only whole vectors, and else both take the lesser.
    """
    least = min(x, y)
    return (x if x == whole else 1, y if y == whole else 1) if least == 1 else (least, least)


def weight_vector(weight: Tensor) -> int:
    """How many channels one load takes of a weight (..., F, C/G, R, S) in the order of `weight_channels_last`."""
    return gcd(weight.shape[-3], 16 // weight.element_size())


def width_of_stores(side: Tensor, channels: int) -> int:
    """How many adjacent channels one store takes: 16 bytes of them, or 1."""
    vector = 16 // side.element_size()
    return vector if alignment(side, channels) == vector else 1


def can_copy_blocks(side: Tensor, geometry: ConvGeometry) -> bool:
    """Whether hardware can copy blocks of pixels of a `side` whose loads take 16 bytes: it knows no stride of zero, nor
    one of 2^40 bytes, and every stride-th pixel may be asked for.
    """
    along_b, _, along_h, along_w = side.stride()
    if side.numel() == 0:
        return False
    farthest = max(along_b, geometry.stride_h * along_h, geometry.stride_w * along_w)
    return min(along_b, along_h, along_w) > 0 and farthest * side.element_size() < 2**40


def one_row(side: Tensor) -> Tensor | None:
    """The pixels of all images as one row of one image (1, N, 1, B*H*W), if they lie so in memory."""
    if not is_evenly_spaced(side):
        return None
    B, N, H, W = side.shape
    _, along_c, _, along_w = side.stride()
    pixels = B * H * W
    return side.as_strided((1, N, 1, pixels), (pixels * along_w, along_c, pixels * along_w, along_w))


def is_wide(side: Tensor) -> bool:
    """Whether the offset of some element does not fit in 32 bits."""
    return sum((n - 1) * stride for n, stride in zip(side.shape, side.stride(), strict=True)) >= 2**31


def is_weight_channels_last(weight: Tensor) -> bool:
    """Whether the weight (..., F, C/G, R, S) has its elements in the order (..., F, R, S, C/G), without gaps."""
    return weight.movedim(-3, -1).is_contiguous()


def is_evenly_spaced(side: Tensor) -> bool:
    """Whether all pixels of a side (B, C, H, W), one image after the other, lie at equal distances."""
    B, _, H, W = side.shape
    along_b, _, along_h, along_w = side.stride()
    return (H <= 1 or along_h == W * along_w) and (B <= 1 or along_b == H * W * along_w)


def dense_rows(side: Tensor) -> Tensor:
    """The side with the channels of the pixels of a row one behind the other: itself, or a channels_last copy."""
    _, channels, _, _ = side.shape
    dense = side.stride(1) == 1 and side.stride(3) == channels
    return side if dense else side.contiguous(memory_format=torch.channels_last)


def can_fold(geometry: ConvGeometry, channels: int, block: int) -> bool:
    """Whether the columns that a stride skips can count as further channels of those that it does not, in whole blocks
    of `block` channels, and the rows as an axis of their own.
    """
    divided = geometry.H % geometry.stride_h == 0 and geometry.W % geometry.stride_w == 0
    return geometry.G == 1 and divided and channels % block == 0
