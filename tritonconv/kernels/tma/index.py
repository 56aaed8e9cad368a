"""Index arithmetic of blocks of pixels."""

import triton
import triton.language as tl


@triton.jit
def block_of(tile, extent, BLOCK_SHAPE: tl.constexpr):
    """Return the first image, row and column of block number `tile`. Columns count fastest, images slowest.

    `extent` is the number of rows and columns of an image. BLOCK_SHAPE is the images, rows and columns of a block.
    """
    extent_h, extent_w = extent
    BLOCK_B: tl.constexpr = BLOCK_SHAPE[0]
    BLOCK_H: tl.constexpr = BLOCK_SHAPE[1]
    BLOCK_W: tl.constexpr = BLOCK_SHAPE[2]
    blocks_h = tl.cdiv(extent_h, BLOCK_H)
    blocks_w = tl.cdiv(extent_w, BLOCK_W)
    b = tile // (blocks_h * blocks_w) * BLOCK_B
    return b, tile // blocks_w % blocks_h * BLOCK_H, tile % blocks_w * BLOCK_W


@triton.jit
def blocks_of(images, extent, BLOCK_SHAPE: tl.constexpr):
    """Return how many blocks of BLOCK_SHAPE images, rows and columns cover `images` images of `extent` pixels."""
    extent_h, extent_w = extent
    return tl.cdiv(images, BLOCK_SHAPE[0]) * tl.cdiv(extent_h, BLOCK_SHAPE[1]) * tl.cdiv(extent_w, BLOCK_SHAPE[2])


@triton.jit
def in_subimage(pixel, stride):
    """Return the first pixel of the sub-image that has `pixel`, and the index of `pixel` within it, along one axis.

    A sub-image has every stride-th pixel of an axis: pixel = start + index*stride, with 0 <= start < stride. `pixel`
    may be negative; then so is its index.
    """
    start = (pixel % stride + stride) % stride
    return start, (pixel - start) // stride
