"""What the tiled kernels share: whole blocks of pixels, copied by hardware (TMA) that knows where a tensor ends.

A block is so many images, rows and columns. What it overhangs at any edge of the image, leading ones included, arrives
as zeros, so there are no masks and no addresses to compute. In the product, channels are rows and pixels are columns:
in this orientation both operands stay in shared memory, whatever shape a block has.

A descriptor tells the hardware of a tensor. A program makes its own, which takes it some microseconds, so the launch
costs the host nothing; and a program computes one tile after another, so that it does so once.
"""

import triton
import triton.language as tl

from tritonconv.kernels.gemm import store_result
from tritonconv.kernels.index import seen


@triton.jit
def multiply_sum_blocks(
    accumulator,
    side,
    weight,
    b,
    first_h,
    first_w,
    g,
    n,
    taps_h,
    taps_w,
    step_h,
    step_w,
    first_tap,
    tap_step_h,
    tap_step_w,
    pitch,
    steps,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """accumulator[n, m] + sum over k, i, j of weight[g, n; tap(i, j), k] * side[m; g, k, first + (i, j)*step]

    in float32. `side` describes (B, H, W, G, K), and m runs over the block of pixels at b, first_h, first_w. `weight`
    describes (G, N, taps*pitch), or if TRANSPOSED (G, K, taps*pitch): taps lie `pitch` elements apart, and tap(i, j) is
    that of number first_tap + i*tap_step_h + j*tap_step_w. Channels beyond K are zeros in the side, and beyond N are
    not stored.
    """
    i = 0
    j = 0
    done = 0
    h = first_h
    w = first_w
    tap = first_tap
    for _ in tl.range(steps):
        pixels = side.load([b, h, w, g, done]).reshape(BLOCK_M, BLOCK_K)
        if TRANSPOSED:
            filters = weight.load([g, done, tap * pitch + n]).reshape(BLOCK_K, BLOCK_N).T
        else:
            filters = weight.load([g, n, tap * pitch + done]).reshape(BLOCK_N, BLOCK_K)
        accumulator = tl.dot(filters.to(DOT_DTYPE), pixels.to(DOT_DTYPE).T, accumulator, input_precision=PRECISION)
        # The order of the gathered kernels: channel blocks outside, taps inside.
        j += 1
        i = tl.where(j == taps_w, i + 1, i)
        j = tl.where(j == taps_w, 0, j)
        done = tl.where(i == taps_h, done + BLOCK_K, done)
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
    b,
    h,
    w,
    n,
    R,
    S,
    stride_h,
    stride_w,
    first_h,
    first_w,
    dilation_h,
    dilation_w,
    C,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """accumulator[n, m] + sum over c, r, s of weight[n; r, s, c] * side[m; c, (h, w)*stride + first + (r, s)*dilation]

    in float32. `side` describes (B, H/stride, stride, W/stride, stride*C): every stride-th row together, and with every
    stride-th column its neighbours as further channels. So one loop sees all of a window, whatever the stride. `weight`
    describes (1, N, taps*C). Channels are a multiple of BLOCK_K.
    """
    start_h, start_at_h = seen(first_h, stride_h)
    start_w, start_at_w = seen(first_w, stride_w)
    row = start_h
    at_h = h + start_at_h
    column = start_w
    at_w = w + start_at_w
    done = 0
    r = 0
    s = 0
    tap = 0
    for _ in tl.range(C // BLOCK_K * R * S):
        pixels = side.load([b, at_h, row, at_w, column * C + done]).reshape(BLOCK_M, BLOCK_K)
        filters = weight.load([0, n, tap * C + done]).reshape(BLOCK_N, BLOCK_K)
        accumulator = tl.dot(filters.to(DOT_DTYPE), pixels.to(DOT_DTYPE).T, accumulator, input_precision=PRECISION)
        # From tap to tap without a division: rows and columns are counted as digits to the base of the stride.
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
        done = tl.where(end, done + BLOCK_K, done)
        tap = tl.where(end, 0, tap)
        r = tl.where(end, 0, r)
    return accumulator


@triton.jit
def copy_block_out(
    result,
    dtype,
    bias_ptr,
    accumulator,
    b,
    i,
    j,
    g,
    N,
    n,
    row,
    column,
    FOLDED: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """result[b, i, j, g, n] = bias[g*N + n] + accumulator[n, m] for the block of pixels m at b, i, j, rounded once.

    `result` describes all of it, so the hardware leaves out what lies beyond; it goes on copying while the next tile is
    computed. If FOLDED, it describes (B, H/stride, stride, W/stride, stride*N), and the pixels are those of the phase
    that begins at `row`, `column`. In two HALVES, the copy takes half the shared memory.
    """
    if bias_ptr is not None:
        rows = n + tl.arange(0, BLOCK_N)
        accumulator += tl.load(bias_ptr + g * N + rows, mask=rows < N, other=0.0).to(tl.float32)[:, None]
    block = accumulator.to(dtype)
    if HALVES:
        first, second = tl.split(block.reshape(2, BLOCK_N // 2, block.shape[1]).permute(1, 2, 0))
        copy_out(result, first, b, i, j, g, N, n, row, column, FOLDED, BLOCK_B, BLOCK_H, BLOCK_W)
        n += BLOCK_N // 2
        copy_out(result, second, b, i, j, g, N, n, row, column, FOLDED, BLOCK_B, BLOCK_H, BLOCK_W)
    else:
        copy_out(result, block, b, i, j, g, N, n, row, column, FOLDED, BLOCK_B, BLOCK_H, BLOCK_W)


@triton.jit
def copy_out(
    result,
    block,
    b,
    i,
    j,
    g,
    N,
    n,
    row,
    column,
    FOLDED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Copy `block` (n, m) to where `copy_block_out` says."""
    if FOLDED:
        pixels = block.T.reshape(BLOCK_B, BLOCK_H, 1, BLOCK_W, block.shape[0])
        result.store([b, i, row, j, column * N + n], pixels)
    else:
        result.store([b, i, j, g, n], block.T.reshape(BLOCK_B, BLOCK_H, BLOCK_W, 1, block.shape[0]))


@triton.jit
def store_block(
    result_ptr,
    bias_ptr,
    accumulator,
    b,
    i,
    j,
    images,
    rows,
    columns,
    start_h,
    start_w,
    stride_h,
    stride_w,
    result_stride_b,
    result_stride_n,
    result_stride_h,
    result_stride_w,
    g,
    N,
    first_n,
    ALIGN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """result[b, g*N + n, start + (i, j)*stride] = bias[g*N + n] + accumulator[n, m] for the block's pixels, as
    `store_result` does it; what lies beyond `images`, `rows` and `columns` is left out.
    """
    m = tl.arange(0, BLOCK_M)
    b += m // (BLOCK_H * BLOCK_W)
    i += m // BLOCK_W % BLOCK_H
    j += m % BLOCK_W
    store_result(
        result_ptr,
        bias_ptr,
        accumulator.T,
        b,
        start_h + i * stride_h,
        start_w + j * stride_w,
        result_stride_b,
        result_stride_n,
        result_stride_h,
        result_stride_w,
        0,
        g,
        N,
        first_n,
        (b < images) & (i < rows) & (j < columns),
        False,
        ALIGN,
        WIDE,
        BLOCK_M,
        BLOCK_N,
    )
