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
    """The tile (m, n) of program `pid`: columns of GROUP_M row tiles, so that neighbours share both operands in L2."""
    column = pid // (GROUP_M * tiles_n)
    first_m = column * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    within = pid - column * GROUP_M * tiles_n
    return first_m + within % height, within // height


@triton.jit
def tap_bits(first, extent, dilation, taps):
    """Bit t says whether position first + t*dilation lies inside [0, extent). At most 32 taps fit.

    One shift per tap replaces two comparisons per row and tap in the main loop.
    """
    bits = tl.zeros_like(first)
    for t in range(taps):
        position = first + t * dilation
        inside = (position >= 0) & (position < extent)
        bits |= inside.to(tl.int32) << t
    return bits


@triton.jit
def tap_inside(first, bits, extent, dilation, t, TAP_BITS: tl.constexpr):
    """Whether tap t falls inside the image: read from `bits`, or compared afresh for kernels too large for them."""
    if TAP_BITS:
        return ((bits >> t) & 1) != 0
    position = first + t * dilation
    return (position >= 0) & (position < extent)
