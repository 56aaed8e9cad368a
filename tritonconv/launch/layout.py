"""How operands lie in memory: how much one load or store may take, and the copies of operands that allow more."""

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
    """Return an uninitialised tensor of this shape, on the device of `like`, and of its dtype if none is given.

    If `channels_last`, the third axis from the end, which has the channels, lies last in memory. Otherwise the tensor
    is contiguous. Planners allocate all results and workspaces by this function.
    """
    at: dict[str, Any] = dict(dtype=dtype or like.dtype, device=like.device)
    dims = len(shape)
    if channels_last and dims > 4:
        return torch.empty_permuted(tuple(shape), (*range(dims - 3), dims - 2, dims - 1, dims - 3), **at)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), memory_format=memory_format, **at)


def allocate_results(call: Call, like: Tensor) -> tuple[Tensor, ...]:
    """Return an uninitialised tensor for the result of `call`, and a second one (F,) if `call.finds_bias`."""
    result = allocate(call.result_shape, like, call.result_is_channels_last)
    return (result, allocate((call.geometry.F,), like, False)) if call.finds_bias else (result,)


def bias_strides(bias: Tensor | None, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides over b, n, h and w of a bias that is broadcast to a result of this shape (B, N, h, w).

    A stride is 0 where the bias is broadcast. All are 0 if the bias is None.
    """
    return (0, 0, 0, 0) if bias is None else broadcastable(bias).expand(shape).stride()


def adjacent_channels(side: Tensor, channels: int) -> Tensor:
    """Return the side, or an aligned channels_last copy if only the copy can be loaded by whole 16-byte vectors.

    `channels` counts those of one group. If they take no multiple of 16 bytes, a copy would not help.
    """
    vector = 16 // side.element_size()
    if channels % vector or alignment(side, channels) == vector:
        return side
    return aligned(side.clone(memory_format=torch.channels_last))


def weight_channels_last(weight: Tensor) -> Tensor:
    """Return the weight (..., F, C/G, R, S) laid out as (..., F, R, S, C/G), contiguous and aligned to 16 bytes.

    A weight that lies so already is not copied. A weight that varies usually does.
    """
    return aligned(weight.movedim(-3, -1).contiguous())


def weight_filters_last(weight: Tensor, groups: int, multiple: int = 1) -> Tensor:
    """Return the weight (F, C/G, R, S) laid out as (G, C/G, R, S, F/G), contiguous and aligned to 16 bytes.

    The last axis is padded with zeros up to a multiple of `multiple`.
    """
    lying = weight.unflatten(0, (groups, -1)).permute(0, 2, 3, 4, 1)
    missing = -lying.shape[-1] % multiple
    # `pad` keeps an order of axes in memory that torch takes for channels_last_3d.
    return aligned((pad(lying, (0, missing)) if missing else lying).contiguous())


def aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if its address is not a multiple of 16 bytes. The copy's address is one.

    The tensor's elements must lie without gaps, in any order of its axes. The copy has the same strides.
    """
    if tensor.data_ptr() % 16 == 0:
        return tensor
    memory = aligned_bytes(tensor.device, tensor.numel() * tensor.element_size(), 16).view(tensor.dtype)
    return memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def aligned_bytes(device: torch.device, size: int, alignment: int) -> Tensor:
    """Return `size` bytes of uninitialised memory on `device`, whose address is a multiple of `alignment`.

    What torch allocates is a multiple of 512 bytes on a GPU and of 64 on a CPU, but other allocators can replace
    torch's.
    """
    memory = torch.empty(size, dtype=torch.int8, device=device)
    if memory.data_ptr() % alignment == 0:
        return memory
    memory = torch.empty(size + alignment, dtype=torch.int8, device=device)
    return memory[-memory.data_ptr() % alignment :][:size]


def alignment(side: Tensor, channels: int) -> int:
    """Return how many adjacent channels one load may take: 16 bytes of them, 4 bytes, or 1 channel.

    For more than 1, the channel stride must be 1, and the address a multiple of 16 bytes. The strides over b, h and w,
    and the `channels` of a group, must be multiples of what a load takes. Widths in between count as the next smaller
    one, because each width is one more variant to compile.
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
    """Return how many elements the loads of two sides take, if at most `x` and `y` are possible.

    `whole` is the number of elements in 16 bytes. If neither `x` nor `y` is 1, both take the lesser. Otherwise each
    side takes `whole` elements if these are possible, or else 1. So there are few pairs, each of which is one more
    variant to compile.
    """
    least = min(x, y)
    return (x if x == whole else 1, y if y == whole else 1) if least == 1 else (least, least)


def weight_vector(weight: Tensor) -> int:
    """Return how many channels one load takes of a weight (..., F, C/G, R, S) after `weight_channels_last`.

    That is the greatest common divisor of C/G and the number of elements in 16 bytes.
    """
    return gcd(weight.shape[-3], 16 // weight.element_size())


def width_of_stores(side: Tensor, channels: int) -> int:
    """Return how many adjacent channels one store takes: 16 bytes of them if `alignment` allows that, or else 1."""
    vector = 16 // side.element_size()
    return vector if alignment(side, channels) == vector else 1


def can_copy_blocks(side: Tensor, geometry: ConvGeometry) -> bool:
    """Whether TMA can copy blocks of pixels of `side`. The caller checks that loads take 16 bytes.

    A TMA descriptor has no stride of zero, and none of 2^40 bytes or more. This holds for the strides over b, h and w.
    Those over h and w count times the convolution's stride, because a descriptor may describe every stride-th pixel. An
    empty side can not be copied.
    """
    along_b, _, along_h, along_w = side.stride()
    if side.numel() == 0:
        return False
    farthest = max(along_b, geometry.stride_h * along_h, geometry.stride_w * along_w)
    return min(along_b, along_h, along_w) > 0 and farthest * side.element_size() < 2**40


def one_row(side: Tensor) -> Tensor | None:
    """Return a view of the pixels of all images as one row of one image, (1, N, 1, B*H*W).

    None if the side is not `is_evenly_spaced`.
    """
    if not is_evenly_spaced(side):
        return None
    B, N, H, W = side.shape
    _, along_c, _, along_w = side.stride()
    pixels = B * H * W
    return side.as_strided((1, N, 1, pixels), (pixels * along_w, along_c, pixels * along_w, along_w))


def is_wide(side: Tensor) -> bool:
    """Whether the last element is 2^31 elements or more behind the first, so that offsets do not fit in 32 bits."""
    return sum((n - 1) * stride for n, stride in zip(side.shape, side.stride(), strict=True)) >= 2**31


def is_weight_channels_last(weight: Tensor) -> bool:
    """Whether the weight (..., F, C/G, R, S) lies as (..., F, R, S, C/G) in memory, without gaps."""
    return weight.movedim(-3, -1).is_contiguous()


def is_evenly_spaced(side: Tensor) -> bool:
    """Whether the pixels of a side (B, C, H, W), one image after the other, lie at equal distances in memory.

    The distance is the stride over w. The stride of an axis of at most one entry does not count.
    """
    B, _, H, W = side.shape
    along_b, _, along_h, along_w = side.stride()
    return (H <= 1 or along_h == W * along_w) and (B <= 1 or along_b == H * W * along_w)


def dense_rows(side: Tensor) -> Tensor:
    """Return the side if the pixels of a row lie without gaps and channels are adjacent, or else in channels_last.

    The rows are without gaps if the channel stride is 1 and the stride over w equals the number of channels. A copy is
    aligned to 16 bytes.
    """
    _, channels, _, _ = side.shape
    dense = side.stride(1) == 1 and side.stride(3) == channels
    return side if dense else aligned(side.contiguous(memory_format=torch.channels_last))
