"""fprop as `tritonconv` has it for blocks of pixels, but with descriptors that the host makes: only to be timed."""

import triton
import triton.language as tl

from tritonconv.kernels.index import block_of, blocks_of, raster
from tritonconv.kernels.tiled import multiply_sum_blocks, store_block


@triton.jit(
    do_not_specialize=["B", "C", "F", "P", "Q", "R", "S", "stride_yb", "stride_yp", "stride_yq", "pad_h", "pad_w"]
)
def fprop_described_kernel(
    image,
    weight,
    y_ptr,
    B,
    C,
    F,
    P,
    Q,
    R,
    S,
    stride_yb,
    stride_yp,
    stride_yq,
    pad_h,
    pad_w,
    ALIGN_Y: tl.constexpr,
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

    `image` describes x as (B, H, W, C) and `weight` the weight as (F, R*S*C). F and the strides of y were divided by
    ALIGN_Y.
    """
    F *= ALIGN_Y
    tiles_m = blocks_of(B, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
    tiles_n = tl.cdiv(F, BLOCK_N)
    tile_m, tile_n = raster(tl.program_id(0), tiles_m, tiles_n, GROUP_M)
    b, p, q = block_of(tile_m, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
    accumulator = multiply_sum_blocks(
        tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32),
        image,
        weight,
        b,
        p - pad_h,
        q - pad_w,
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
    store_block(
        y_ptr,
        None,
        accumulator,
        b,
        p,
        q,
        B,
        P,
        Q,
        0,
        0,
        1,
        1,
        stride_yb,
        1,
        stride_yp,
        stride_yq,
        0,
        F,
        tile_n * BLOCK_N,
        ALIGN_Y,
        False,
        BLOCK_M,
        BLOCK_N,
        BLOCK_H,
        BLOCK_W,
    )
