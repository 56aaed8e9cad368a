"""Store a block of pixels: copy it out by TMA, or store it element by element where memory does not allow that."""

import triton
import triton.language as tl

from tritonconv.kernels.store import store_result


@triton.jit
def copy_block_out(
    result,
    dtype,
    bias_ptr,
    accumulator,
    corner,
    start,
    g,
    N,
    first_n,
    STORES_FOLDED: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_SHAPE: tl.constexpr,
):
    """result[m, g, n] = bias[g*N + n] + accumulator[n - first_n, m] for a block of pixels m, rounded once to `dtype`.

    `result` is the TMA descriptor of the whole result (B, H, W, G, N), so the hardware leaves out what lies beyond it.
    The copy goes on while the next tile is computed. m runs over BLOCK_SHAPE images, rows and columns, and n runs from
    first_n on. `corner` is the first image, row and column. `bias_ptr` may be None.

    If STORES_FOLDED, `result` is what `describe_folded` returns, and there is one group. The block then has pixels of
    the phase whose first row and column are `start`. If HALVES, two halves of the block's channels are copied one after
    the other. They share one buffer in shared memory only where the architecture has `halves_share`.
    """
    BLOCK_N: tl.constexpr = accumulator.shape[0]
    if bias_ptr is not None:
        n = first_n + tl.arange(0, BLOCK_N)
        accumulator += tl.load(bias_ptr + g * N + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    block = accumulator.to(dtype)
    if HALVES:
        first_half, second_half = tl.split(block.reshape(2, BLOCK_N // 2, block.shape[1]).permute(1, 2, 0))
        copy_out(
            result=result,
            block=first_half,
            corner=corner,
            start=start,
            g=g,
            N=N,
            first_n=first_n,
            STORES_FOLDED=STORES_FOLDED,
            BLOCK_SHAPE=BLOCK_SHAPE,
        )
        copy_out(
            result=result,
            block=second_half,
            corner=corner,
            start=start,
            g=g,
            N=N,
            first_n=first_n + BLOCK_N // 2,
            STORES_FOLDED=STORES_FOLDED,
            BLOCK_SHAPE=BLOCK_SHAPE,
        )
    else:
        copy_out(
            result=result,
            block=block,
            corner=corner,
            start=start,
            g=g,
            N=N,
            first_n=first_n,
            STORES_FOLDED=STORES_FOLDED,
            BLOCK_SHAPE=BLOCK_SHAPE,
        )


@triton.jit
def copy_out(result, block, corner, start, g, N, first_n, STORES_FOLDED: tl.constexpr, BLOCK_SHAPE: tl.constexpr):
    """Copy `block` (n, m), whose first channel is first_n, to its place in `result`, as `copy_block_out` explains."""
    BLOCK_B: tl.constexpr = BLOCK_SHAPE[0]
    BLOCK_H: tl.constexpr = BLOCK_SHAPE[1]
    BLOCK_W: tl.constexpr = BLOCK_SHAPE[2]
    b, i, j = corner
    start_h, start_w = start
    if STORES_FOLDED:
        pixels = block.T.reshape(BLOCK_B, BLOCK_H, 1, BLOCK_W, block.shape[0])
        result.store([b, i, start_h, j, start_w * N + first_n], pixels)
    else:
        result.store([b, i, j, g, first_n], block.T.reshape(BLOCK_B, BLOCK_H, BLOCK_W, 1, block.shape[0]))


@triton.jit
def store_block(
    result_ptr,
    result_strides,
    bias_ptr,
    accumulator,
    corner,
    images,
    extent,
    start,
    stride,
    g,
    N,
    first_n,
    VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_SHAPE: tl.constexpr,
):
    """result[b, g*N + n, start + (i, j)*stride] = bias[g*N + n] + accumulator[n - first_n, m], for a block of pixels m.

    m counts the pixels (b, i, j) of a block of BLOCK_SHAPE images, rows and columns, the first of which is `corner`.
    Pixels beyond `images`, or beyond the rows and columns of `extent`, are left out, and so are channels n >= N.
    `store_result` explains the rest.
    """
    BLOCK_H: tl.constexpr = BLOCK_SHAPE[1]
    BLOCK_W: tl.constexpr = BLOCK_SHAPE[2]
    b, i, j = corner
    extent_h, extent_w = extent
    start_h, start_w = start
    stride_h, stride_w = stride
    m = tl.arange(0, accumulator.shape[1])
    b += m // (BLOCK_H * BLOCK_W)
    i += m // BLOCK_W % BLOCK_H
    j += m % BLOCK_W
    store_result(
        result_ptr=result_ptr,
        result_strides=result_strides,
        bias_ptr=bias_ptr,
        stride_bias_n=0,
        accumulator=accumulator.T,
        pixel=(b, start_h + i * stride_h, start_w + j * stride_w),
        g=g,
        N=N,
        first_n=first_n,
        valid_m=(b < images) & (i < extent_h) & (j < extent_w),
        BIAS_VARIES=False,
        VECTOR=VECTOR,
        WIDE=WIDE,
    )
