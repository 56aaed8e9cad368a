"""Index arithmetic that the kernels share."""

import triton
import triton.language as tl

# What every kernel takes beside pointers and constants. Specialising on their values would compile a variant for each.
INTEGERS = [
    *("B", "C", "H", "W", "F", "P", "Q", "R", "S"),
    *("stride_xb", "stride_xc", "stride_xh", "stride_xw", "stride_yb", "stride_yf", "stride_yp", "stride_yq"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
]


# What the kernels that add a bias take of one that varies.
BIAS_STRIDES = ["stride_bias_b", "stride_bias_n", "stride_bias_h", "stride_bias_w"]


@triton.jit
def place_of(block, blocks, samples, rows, columns, PER_SAMPLE: tl.constexpr, PER_LOCATION: tl.constexpr):
    """The sample, row, column and group of the block-th of `blocks` products, and how many groups there are.

    Groups count fastest. What the weight does not vary over is zero here, and runs over the rows of the product. Rows
    and columns are those of positions, or in dgrad of the pixels of a phase.
    """
    sample = 0
    i = 0
    j = 0
    g = block
    groups = blocks
    if PER_SAMPLE or PER_LOCATION:
        if PER_SAMPLE:
            groups = groups // samples
        if PER_LOCATION:
            groups = groups // (rows * columns)
        g = block % groups
        sample = block // groups
    if PER_LOCATION:
        j = sample % columns
        i = sample // columns % rows
        sample = sample // (rows * columns)
    return sample, i, j, g, groups


@triton.jit
def raster(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """The tile (m, n) of number `pid`: columns of GROUP_M row tiles, so that neighbours share both operands in L2."""
    column = pid // (GROUP_M * tiles_n)
    first_m = column * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    within = pid - column * GROUP_M * tiles_n
    return first_m + within % height, within // height


@triton.jit
def within(position, extent):
    """Whether 0 <= position < extent. Without its sign a position below zero is a huge one: one comparison tells."""
    return position.to(tl.uint32) < extent.to(tl.uint32)


@triton.jit
def axis_bits(first, extent, step, taps):
    """Bit t says whether position first + t*step lies inside the extent. At most 31 taps fit."""
    bits = tl.zeros_like(first)
    for t in range(taps):
        bits |= within(first + t * step, extent).to(tl.int32) << t
    return bits


@triton.jit
def tap_bits(first_h, first_w, extent_h, extent_w, step_h, step_w, taps_h, taps_w):
    """Bit i*taps_w + j says whether position first + (i, j)*step lies inside the extent. At most 31 taps fit.

    One operation per row and tap replaces comparisons in the main loop.
    """
    row = axis_bits(first_w, extent_w, step_w, taps_w)
    bits = tl.zeros_like(first_h)
    for i in range(taps_h):
        bits |= tl.where(within(first_h + i * step_h, extent_h), row << (i * taps_w), 0)
    return bits


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
