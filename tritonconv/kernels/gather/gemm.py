"""The implicit GEMM of fprop and dgrad: rows are gathered from the image or the features, columns from the weight."""

import triton
import triton.language as tl

from tritonconv.kernels.gather.index import axis_bits, tap_bits, within


@triton.jit
def multiply_sum(
    side_ptrs,
    weight_ptrs,
    taps,
    K,
    first,
    extent,
    step,
    side_strides,
    weight_strides,
    steps,
    valid_m,
    valid_n,
    AXES_PER_INTEGER: tl.constexpr,
    WIDE_STEPS: tl.constexpr,
    N_ADJACENT: tl.constexpr,
    MASKS_WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """sum over k, i, j of side[m; k, first + (i, j)*step] * weight[k, i, j; n], in float32.

    The result is (BLOCK_M, BLOCK_N). The side is what is gathered: the image or the features. It counts as zero outside
    its extent.

    - `side_ptrs` (BLOCK_M, BLOCK_K) and `weight_ptrs` (BLOCK_K, BLOCK_N) point to tap (0, 0) of the first BLOCK_K of K
      channels.
    - `taps`, `first`, `extent` and `step` are pairs, for rows and columns. In row m of the product, tap (0, 0) looks at
      first[m], and the next tap `step` rows or columns further on.
    - `side_strides` are the strides over rows, columns and k, and `weight_strides` those over row taps, column taps and
      k.
    - `steps` is the number of blocks of channels times the number of taps, or 0. With 0 steps the result is zero.
    - `valid_m` (BLOCK_M,) and `valid_n` (BLOCK_N,) say which rows and columns lie inside the product.
    - For each row of the product, the bits of integers say which taps lie inside the extent. AXES_PER_INTEGER is 2 if
      one integer has the taps of both axes, and 1 if each axis has an integer. If it is 0, the loop compares indices
      instead.
    - If WIDE_STEPS, the distances by which `side_ptrs` move from step to step are 64-bit, or else 32-bit.
    - If N_ADJACENT, n is contiguous in the weight, and loads of the weight are masked by valid_n. Otherwise k is
      contiguous, and the caller lets invalid columns point to a valid one.
    - If MASKS_WEIGHT, all rows look at the same index, so `first` are scalars. The weight of a tap that looks outside
      the extent is then not loaded.
    - PRECISION is the `input_precision` of tl.dot, and DOT_DTYPE the dtype that operands are converted to before it.
    - BLOCK is (BLOCK_M, BLOCK_N, BLOCK_K). Fewer than 16 rows are multiplied without tensor cores.
    - STAGES is the number of software pipelining stages for fewer than 16 rows, and otherwise None. Without tensor
      cores, Triton pipelines a loop only if told to.
    """
    BLOCK_M: tl.constexpr = BLOCK[0]
    BLOCK_N: tl.constexpr = BLOCK[1]
    BLOCK_K: tl.constexpr = BLOCK[2]
    taps_h, taps_w = taps
    first_h, first_w = first
    extent_h, extent_w = extent
    step_h, step_w = step
    side_stride_h, side_stride_w, side_stride_k = side_strides
    weight_stride_h, weight_stride_w, weight_stride_k = weight_strides
    k = tl.arange(0, BLOCK_K)
    if BLOCK_M < 16:
        # Each thread adds up the products along k that it loads. The threads' sums are added up at the end.
        accumulator = tl.zeros((BLOCK_M, BLOCK_K, BLOCK_N), dtype=tl.float32)
    else:
        accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if not WIDE_STEPS:
        side_stride_h = side_stride_h.to(tl.int32)
        side_stride_w = side_stride_w.to(tl.int32)
    # How far pointers move: to the next tap, to the first tap of the next row, to the first tap of the next channels.
    side_to_tap = step_w * side_stride_w
    side_to_row = step_h * side_stride_h - (taps_w - 1) * side_to_tap
    side_to_channels = BLOCK_K * side_stride_k - ((taps_h - 1) * (step_h * side_stride_h) + (taps_w - 1) * side_to_tap)
    if not WIDE_STEPS:
        side_to_channels = side_to_channels.to(tl.int32)
    weight_to_row = weight_stride_h - (taps_w - 1) * weight_stride_w
    weight_to_channels = BLOCK_K * weight_stride_k - ((taps_h - 1) * weight_stride_h + (taps_w - 1) * weight_stride_w)
    # Expanded to two dimensions before the loop, so that no step moves them from thread to thread.
    if AXES_PER_INTEGER == 2:
        bits = tap_bits(first=first, extent=extent, step=step, taps=taps)
        row_bits = tl.where(valid_m, bits, 0)[:, None]
    elif AXES_PER_INTEGER == 1:
        bits_h = axis_bits(first=first_h, extent=extent_h, step=step_h, taps=taps_h)
        bits_w = axis_bits(first=first_w, extent=extent_w, step=step_w, taps=taps_w)
        row_bits_h = tl.where(valid_m, bits_h, 0)[:, None]
        row_bits_w = tl.where(valid_m, bits_w, 0)[:, None]
    tap = 1
    last_tap = 1 << (taps_h * taps_w - 1)
    i = 0
    j = 0
    first_k = 0
    # Channel blocks outside, taps inside: neighbouring taps re-read the side from cache, and each load stays aligned.
    for _ in tl.range(steps, num_stages=STAGES):
        valid_k = k < K - first_k
        valid_weight = valid_k[:, None]
        # The bit of this tap, or none for a channel beyond the last: one operation tests both for each row.
        tap_bit = tl.where(valid_k, tap, 0)
        if AXES_PER_INTEGER == 2:
            inside = (row_bits & tap_bit[None, :]) != 0
        elif AXES_PER_INTEGER == 1:
            inside = ((row_bits_h >> i) & (row_bits_w >> j) & tap_bit[None, :]) != 0
        else:
            tap_inside = within(first_h + i * step_h, extent_h) & within(first_w + j * step_w, extent_w)
            inside = (tap_inside & valid_m)[:, None] & valid_k[None, :]
        if MASKS_WEIGHT:
            if AXES_PER_INTEGER == 2:
                valid_weight = ((bits & tap_bit) != 0)[:, None]
            elif AXES_PER_INTEGER == 1:
                valid_weight = (((bits_h >> i) & (bits_w >> j) & tap_bit) != 0)[:, None]
            else:
                valid_weight = valid_weight & tap_inside
        if N_ADJACENT:
            valid_weight = valid_weight & valid_n[None, :]
        side = tl.load(side_ptrs, mask=inside, other=0.0)
        weight = tl.load(weight_ptrs, mask=valid_weight, other=0.0)
        if BLOCK_M < 16:
            accumulator += side.to(tl.float32)[:, :, None] * weight.to(tl.float32)[None, :, :]
        else:
            accumulator = tl.dot(side.to(DOT_DTYPE), weight.to(DOT_DTYPE), accumulator, input_precision=PRECISION)
        row_ends = j == taps_w - 1
        last = tap == last_tap if AXES_PER_INTEGER == 2 else row_ends & (i == taps_h - 1)
        side_ptrs += tl.where(last, side_to_channels, tl.where(row_ends, side_to_row, side_to_tap))
        weight_ptrs += tl.where(last, weight_to_channels, tl.where(row_ends, weight_to_row, weight_stride_w))
        first_k = tl.where(last, first_k + BLOCK_K, first_k)
        j = tl.where(row_ends, 0, j + 1)
        if AXES_PER_INTEGER == 2:
            tap = tl.where(last, 1, tap + tap)
        else:
            i = tl.where(last, 0, tl.where(row_ends, i + 1, i))
    if BLOCK_M < 16:
        accumulator = tl.sum(accumulator, 1)
    return accumulator
