"""fprop as `tritonconv` has it for blocks of pixels, but with descriptors that the host makes: only to be timed."""

import triton
import triton.language as tl

from tritonconv.kernels.index import block_of, blocks_of, raster
from tritonconv.kernels.tiled import copy_block_out, multiply_sum_blocks


@triton.jit(do_not_specialize=["B", "C", "F", "P", "Q", "R", "S", "pad_h", "pad_w"])
def fprop_described_kernel(
    image,
    weight,
    result,
    B,
    C,
    F,
    P,
    Q,
    R,
    S,
    pad_h,
    pad_w,
    HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s] with h = p + r - pad_h and w = q + s - pad_w

    `image` describes x as (B, H, W, 1, C), `weight` the weight as (1, F, R*S*C) and `result` y as (B, P, Q, 1, F).
    """
    tiles_m = blocks_of(B, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
    tiles_n = tl.cdiv(F, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        tile_m, tile_n = raster(tile, tiles_m, tiles_n, GROUP_M)
        b, p, q = block_of(tile_m, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
        accumulator = multiply_sum_blocks(
            tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32),
            image,
            weight,
            b,
            p - pad_h,
            q - pad_w,
            0,
            tile_n * BLOCK_N,
            R,
            S,
            1,
            1,
            0,
            S,
            1,
            C,
            tl.cdiv(C, BLOCK_K) * R * S,
            False,
            PRECISION,
            DOT_DTYPE,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        n = tile_n * BLOCK_N
        dtype = result.dtype
        copy_block_out(
            result, dtype, None, accumulator, b, p, q, 0, F, n, 0, 0, False, HALVES, BLOCK_N, BLOCK_B, BLOCK_H, BLOCK_W
        )
