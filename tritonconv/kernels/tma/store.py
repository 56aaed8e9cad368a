"""Copy a block of results out by TMA, or store it element by element where memory does not allow that."""

import triton
import triton.language as tl

from tritonconv.kernels.store import store_result


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
