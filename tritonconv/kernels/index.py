"""The integer parameters of all kernels, and the order in which programs take tiles."""

import triton
import triton.language as tl

# The integers that every kernel of fprop, dgrad and wgrad takes. Specialising on them would compile other variants for
# a value of 1 and for multiples of 16. The signature of a kernel is flat because `do_not_specialize` has no effect in a
# tuple or NamedTuple.
INTEGERS = [
    *("B", "C", "H", "W", "F", "P", "Q", "R", "S"),
    *("stride_xb", "stride_xc", "stride_xh", "stride_xw", "stride_yb", "stride_yf", "stride_yp", "stride_yq"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
]


@triton.jit
def raster(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Return the row and column of tile number `pid`, in a swizzled order: neighbouring tiles share operands in L2.

    The tiles_m x tiles_n tiles are taken in bands of GROUP_M rows of tiles; the last band may have fewer. Within a band
    rows count fastest.
    """
    band = pid // (GROUP_M * tiles_n)
    first_m = band * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    index_in_band = pid - band * GROUP_M * tiles_n
    return first_m + index_in_band % height, index_in_band // height
