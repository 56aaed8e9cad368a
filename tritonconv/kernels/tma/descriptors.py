"""TMA descriptors of the sub-images of a stride: of one sub-image, or of all at once.

A sub-image has every stride-th pixel of each axis.
"""

import triton
import triton.language as tl


@triton.jit
def describe_subimage(
    x_ptr, strides, images, extent, groups, C, start, stride, BLOCK_SHAPE: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Return a TMA descriptor (B, rows, columns, G, C) of a sub-image: every stride-th pixel of x from `start` on.

    `images` is B, `groups` is G, and C counts the channels of one group. `extent`, `start` and `stride` are pairs, for
    rows and columns of x. `strides` are those of x over b, h, w and g, in 64 bits. A block has BLOCK_SHAPE images, rows
    and columns, and BLOCK_C channels of one group. If the sub-image has no row or no column, one is described all the
    same, which the caller must not load.
    """
    wide_b, wide_h, wide_w, wide_g = strides
    H, W = extent
    start_h, start_w = start
    stride_h, stride_w = stride
    first_ptr = x_ptr + start_h * wide_h + start_w * wide_w
    # No axis of a descriptor may be empty.
    rows = tl.maximum(tl.cdiv(H - start_h, stride_h), 1)
    columns = tl.maximum(tl.cdiv(W - start_w, stride_w), 1)
    return tl.make_tensor_descriptor(
        first_ptr,
        [images, rows, columns, groups, C],
        [wide_b, stride_h * wide_h, stride_w * wide_w, wide_g, 1],
        [BLOCK_SHAPE[0], BLOCK_SHAPE[1], BLOCK_SHAPE[2], 1, BLOCK_C],
    )


@triton.jit
def describe_folded(x_ptr, strides, images, extent, C, stride, BLOCK_SHAPE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return a TMA descriptor (B, H/stride_h, stride_h, W/stride_w, stride_w*C) of all sub-images of x at once.

    `images` is B, `extent` is (H, W), and there is one group. `strides` are those of x over b, h and w, in 64 bits. The
    stride divides H and W. Rows have no gaps, so the columns that the stride skips count as further channels. Pixel
    (h, w) and channel c of the sub-image from (start_h, start_w) on are at [b, h, start_h, w, start_w*C + c]. A block
    has BLOCK_SHAPE images, rows and columns of one sub-image, and BLOCK_C channels, which divide C.
    """
    wide_b, wide_h, wide_w = strides
    H, W = extent
    stride_h, stride_w = stride
    return tl.make_tensor_descriptor(
        x_ptr,
        [images, H // stride_h, stride_h, W // stride_w, stride_w * C],
        [wide_b, stride_h * wide_h, wide_h, stride_w * wide_w, 1],
        [BLOCK_SHAPE[0], BLOCK_SHAPE[1], 1, BLOCK_SHAPE[2], BLOCK_C],
    )
