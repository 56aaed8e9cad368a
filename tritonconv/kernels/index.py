"""Index arithmetic that all kernels share."""

import triton
import triton.language as tl

# What every kernel takes beside pointers and constants. Specialising on their values would compile a variant for each.
# So the signature of a kernel is flat: `do_not_specialize` has no effect on what is inside a tuple or NamedTuple.
INTEGERS = [
    *("B", "C", "H", "W", "F", "P", "Q", "R", "S"),
    *("stride_xb", "stride_xc", "stride_xh", "stride_xw", "stride_yb", "stride_yf", "stride_yp", "stride_yq"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
]


@triton.jit
def raster(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """The tile (m, n) of number `pid`: columns of GROUP_M row tiles, so that neighbours share both operands in L2."""
    column = pid // (GROUP_M * tiles_n)
    first_m = column * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    index_in_column = pid - column * GROUP_M * tiles_n
    return first_m + index_in_column % height, index_in_column // height
