"""Index arithmetic of blocks of pixels."""

import triton
import triton.language as tl


@triton.jit
def block_of(tile, extent_h, extent_w, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """The first image, row and column of the tile-th block. Columns count fastest, images slowest."""
    blocks_h = tl.cdiv(extent_h, BLOCK_H)
    blocks_w = tl.cdiv(extent_w, BLOCK_W)
    b = tile // (blocks_h * blocks_w) * BLOCK_B
    return b, tile // blocks_w % blocks_h * BLOCK_H, tile % blocks_w * BLOCK_W


@triton.jit
def blocks_of(images, extent_h, extent_w, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """How many blocks cover so many images, rows and columns."""
    return tl.cdiv(images, BLOCK_B) * tl.cdiv(extent_h, BLOCK_H) * tl.cdiv(extent_w, BLOCK_W)


@triton.jit
def seen(offset, stride):
    """The first pixel of a side's every stride-th, and which of those it is, so that offset = first + at*stride."""
    first = (offset % stride + stride) % stride
    return first, (offset - first) // stride
