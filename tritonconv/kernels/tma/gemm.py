"""The implicit GEMMs over blocks of pixels: channels are rows of the product, pixels are columns."""

import triton
import triton.language as tl

from tritonconv.kernels.tma.index import in_subimage


@triton.jit
def multiply_sum_blocks(
    accumulator,
    side,
    weight,
    corner,
    g,
    first_n,
    taps,
    step,
    first_tap,
    tap_step,
    pitch,
    steps,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """accumulator[n, m] + sum over k, i, j of weight[g, first_n + n; tap(i, j), k] * side[m + (i, j)*step; g, k]

    in float32. `taps`, `step` and `tap_step` are pairs, for rows and columns. k counts the K channels of group g, and
    (i, j) the taps.

    - `side` describes (B, H, W, G, K). m runs over the block of pixels whose first image, row and column are `corner`.
    - `weight` describes (G, N, taps*pitch), or (G, K, taps*pitch) if TRANSPOSED: taps lie `pitch` elements apart.
    - tap(i, j) = first_tap + i*tap_step_h + j*tap_step_w is the number of a tap in the weight.
    - Rows n with first_n + n >= N have no meaning. The caller does not store them.
    - Channels beyond K are zeros in the side.
    - `steps` is the number of blocks of channels times the number of taps, or 0. With 0 steps, `accumulator` is
      returned unchanged.
    - PRECISION is the `input_precision` of tl.dot, and DOT_DTYPE the dtype that operands are converted to before it.
    - BLOCK is (BLOCK_M, BLOCK_N, BLOCK_K).
    """
    BLOCK_M: tl.constexpr = BLOCK[0]
    BLOCK_N: tl.constexpr = BLOCK[1]
    BLOCK_K: tl.constexpr = BLOCK[2]
    b, first_h, first_w = corner
    taps_h, taps_w = taps
    step_h, step_w = step
    tap_step_h, tap_step_w = tap_step
    i = 0
    j = 0
    first_k = 0
    h = first_h
    w = first_w
    tap = first_tap
    for _ in tl.range(steps):
        pixels = side.load([b, h, w, g, first_k]).reshape(BLOCK_M, BLOCK_K)
        if TRANSPOSED:
            filters = weight.load([g, first_k, tap * pitch + first_n]).reshape(BLOCK_K, BLOCK_N).T
        else:
            filters = weight.load([g, first_n, tap * pitch + first_k]).reshape(BLOCK_N, BLOCK_K)
        accumulator = tl.dot(filters.to(DOT_DTYPE), pixels.to(DOT_DTYPE).T, accumulator, input_precision=PRECISION)
        # The same order as in the kernels that gather: channel blocks outside, taps inside.
        j += 1
        i = tl.where(j == taps_w, i + 1, i)
        j = tl.where(j == taps_w, 0, j)
        first_k = tl.where(i == taps_h, first_k + BLOCK_K, first_k)
        i = tl.where(i == taps_h, 0, i)
        h = first_h + i * step_h
        w = first_w + j * step_w
        tap = first_tap + i * tap_step_h + j * tap_step_w
    return accumulator


@triton.jit
def multiply_sum_folded(
    accumulator,
    side,
    weight,
    corner,
    first_n,
    taps,
    first,
    stride,
    dilation,
    C,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """accumulator[n, m] + sum over c,r,s of weight[first_n + n; r, s, c] * side[first + m*stride + (r, s)*dilation; c]

    in float32. `taps`, `first`, `stride` and `dilation` are pairs, for rows and columns.

    - `side` is what `describe_folded` returns: (B, H/stride_h, stride_h, W/stride_w, stride_w*C). The rows that the
      stride skips are an axis, and the columns that it skips are further channels. So one loop runs over all taps,
      whatever the stride.
    - m runs over the block of positions whose first image, row and column are `corner`.
    - `weight` describes (1, N, taps*C). Rows n with first_n + n >= N have no meaning. The caller does not store them.
    - C is a multiple of BLOCK_K.
    - PRECISION is the `input_precision` of tl.dot, and DOT_DTYPE the dtype that operands are converted to before it.
    - BLOCK is (BLOCK_M, BLOCK_N, BLOCK_K).
    """
    BLOCK_M: tl.constexpr = BLOCK[0]
    BLOCK_N: tl.constexpr = BLOCK[1]
    BLOCK_K: tl.constexpr = BLOCK[2]
    b, h, w = corner
    R, S = taps
    first_h, first_w = first
    stride_h, stride_w = stride
    dilation_h, dilation_w = dilation
    start_h, start_at_h = in_subimage(first_h, stride_h)
    start_w, start_at_w = in_subimage(first_w, stride_w)
    row = start_h
    at_h = h + start_at_h
    column = start_w
    at_w = w + start_at_w
    first_k = 0
    r = 0
    s = 0
    tap = 0
    for _ in tl.range(C // BLOCK_K * R * S):
        pixels = side.load([b, at_h, row, at_w, column * C + first_k]).reshape(BLOCK_M, BLOCK_K)
        filters = weight.load([0, first_n, tap * C + first_k]).reshape(BLOCK_N, BLOCK_K)
        accumulator = tl.dot(filters.to(DOT_DTYPE), pixels.to(DOT_DTYPE).T, accumulator, input_precision=PRECISION)
        # From tap to tap without a division: a row or column is counted in two digits, to the base of the stride.
        s += 1
        tap += 1
        column += dilation_w % stride_w
        at_w += dilation_w // stride_w + tl.where(column >= stride_w, 1, 0)
        column -= tl.where(column >= stride_w, stride_w, 0)
        next_row = row + dilation_h % stride_h
        end = s == S
        at_h += tl.where(end, dilation_h // stride_h + tl.where(next_row >= stride_h, 1, 0), 0)
        row = tl.where(end, next_row - tl.where(next_row >= stride_h, stride_h, 0), row)
        column = tl.where(end, start_w, column)
        at_w = tl.where(end, w + start_at_w, at_w)
        r = tl.where(end, r + 1, r)
        s = tl.where(end, 0, s)
        end = r == R
        row = tl.where(end, start_h, row)
        at_h = tl.where(end, h + start_at_h, at_h)
        first_k = tl.where(end, first_k + BLOCK_K, first_k)
        tap = tl.where(end, 0, tap)
        r = tl.where(end, 0, r)
    return accumulator
