"""Index arithmetic of the kernels that gather pixels one by one."""

import triton
import triton.language as tl

# Further integers of the kernels that add a bias: its strides, in case it varies.
BIAS_STRIDES = ["stride_bias_b", "stride_bias_n", "stride_bias_h", "stride_bias_w"]


@triton.jit
def place_of(product, products, samples, extent, PER_SAMPLE: tl.constexpr, PER_LOCATION: tl.constexpr):
    """Return the sample, row, column and group of matrix product number `product`, and the number of groups.

    There are `products` products: one for each group, for each of the `samples` if PER_SAMPLE, and for each location if
    PER_LOCATION. Groups count fastest, then columns, rows and samples. Sample, row and column are returned as 0 if the
    weight does not vary over them: then they run within a product. `extent` is the number of rows and columns of
    locations: of positions, or in dgrad of the pixels of the largest phase.
    """
    extent_h, extent_w = extent
    sample = 0
    i = 0
    j = 0
    g = product
    groups = products
    if PER_SAMPLE or PER_LOCATION:
        if PER_SAMPLE:
            groups = groups // samples
        if PER_LOCATION:
            groups = groups // (extent_h * extent_w)
        g = product % groups
        sample = product // groups
    if PER_LOCATION:
        j = sample % extent_w
        i = sample // extent_w % extent_h
        sample = sample // (extent_h * extent_w)
    return sample, i, j, g, groups


@triton.jit
def within(index, extent):
    """Whether 0 <= index < extent. As an unsigned number a negative index is huge: one comparison is enough."""
    return index.to(tl.uint32) < extent.to(tl.uint32)


@triton.jit
def axis_bits(first, extent, step, taps):
    """Return for each element of `first` an integer, whose bit t < taps says whether 0 <= first + t*step < extent.

    At most 31 taps fit.
    """
    bits = tl.zeros_like(first)
    for t in range(taps):
        bits |= within(first + t * step, extent).to(tl.int32) << t
    return bits


@triton.jit
def tap_bits(first, extent, step, taps):
    """Return for each element of `first` an integer, whose bit i*taps_w + j says whether tap (i, j) is inside `extent`.

    All parameters are pairs, for rows and columns. Tap (i, j) looks at index first + (i, j)*step, and i < taps_h,
    j < taps_w. At most 31 taps fit. In the main loop, one operation for each row of the product and each tap then
    replaces comparisons.
    """
    first_h, first_w = first
    extent_h, extent_w = extent
    step_h, step_w = step
    taps_h, taps_w = taps
    row = axis_bits(first=first_w, extent=extent_w, step=step_w, taps=taps_w)
    bits = tl.zeros_like(first_h)
    for i in range(taps_h):
        bits |= tl.where(within(first_h + i * step_h, extent_h), row << (i * taps_w), 0)
    return bits
