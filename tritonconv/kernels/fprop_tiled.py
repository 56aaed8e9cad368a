"""fprop in whole blocks of positions: an implicit GEMM whose rows are filters and whose columns are positions.

With a stride, every stride-th pixel of an axis is an image of its own, to some of the taps: one loop runs over each.
"""

import triton
import triton.language as tl

from tritonconv.kernels.index import INTEGERS, block_of, blocks_of, raster, seen
from tritonconv.kernels.tiled import multiply_sum_blocks, store_block


@triton.jit(do_not_specialize=[*INTEGERS, "period_h", "period_w"], do_not_specialize_on_alignment=["bias_ptr"])
def fprop_tiled_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    B,
    C,
    H,
    W,
    F,
    P,
    Q,
    R,
    S,
    stride_xb,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_yb,
    stride_yf,
    stride_yp,
    stride_yq,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    period_h,
    period_w,
    ALIGN_X: tl.constexpr,
    ALIGN_Y: tl.constexpr,
    WIDE: tl.constexpr,
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
    """y[b,f,p,q] = bias[f] + sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.
    C and F count the channels and filters of one group. The weight lies as (F, R, S, C) without gaps. Channels are
    adjacent in x, and C and every stride of x were divided by ALIGN_X; ALIGN_Y > 1 says the same of F and y. WIDE says
    that y is too large for 32-bit offsets. Every period-th tap sees the same of an axis' stride images.
    """
    C *= ALIGN_X
    F *= ALIGN_Y
    stride_xb = stride_xb.to(tl.int64) * ALIGN_X
    stride_xh = stride_xh.to(tl.int64) * ALIGN_X
    stride_xw = stride_xw.to(tl.int64) * ALIGN_X

    tiles_m = blocks_of(B, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
    tiles_n = tl.cdiv(F, BLOCK_N)
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    g = (pid // tiles).to(tl.int64)
    tile_m, tile_n = raster(pid % tiles, tiles_m, tiles_n, GROUP_M)
    b, p, q = block_of(tile_m, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)

    columns = R * S * C
    weight = tl.make_tensor_descriptor(
        weight_ptr + g * F * columns, [F, columns], [columns.to(tl.int64), 1], [BLOCK_N, BLOCK_K]
    )
    accumulator = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    seen_h = tl.minimum(period_h, R)
    seen_w = tl.minimum(period_w, S)
    for tap in range(seen_h * seen_w):
        r = tap // seen_w
        s = tap % seen_w
        taps_h = tl.cdiv(R - r, period_h)
        taps_w = tl.cdiv(S - s, period_w)
        start_h, at_h = seen(r * dilation_h - pad_h, stride_h)
        start_w, at_w = seen(s * dilation_w - pad_w, stride_w)
        # Nothing is copied of an image so small that it has no pixel there, and a descriptor has one at least.
        there = (start_h < H) & (start_w < W)
        image = tl.make_tensor_descriptor(
            x_ptr + g * C + start_h * stride_xh + start_w * stride_xw,
            [B, tl.maximum(tl.cdiv(H - start_h, stride_h), 1), tl.maximum(tl.cdiv(W - start_w, stride_w), 1), C],
            [stride_xb, stride_h * stride_xh, stride_w * stride_xw, 1],
            [BLOCK_B, BLOCK_H, BLOCK_W, BLOCK_K],
        )
        accumulator = multiply_sum_blocks(
            accumulator,
            image,
            weight,
            b,
            p + at_h,
            q + at_w,
            tile_n * BLOCK_N,
            taps_h,
            taps_w,
            dilation_h * period_h // stride_h,
            dilation_w * period_w // stride_w,
            r * S + s,
            period_h * S,
            period_w,
            C,
            tl.where(there, tl.cdiv(C, BLOCK_K) * taps_h * taps_w, 0),
            False,
            PRECISION,
            DOT_DTYPE,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    store_block(
        y_ptr,
        bias_ptr,
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
        stride_yf,
        stride_yp,
        stride_yq,
        g,
        F,
        tile_n * BLOCK_N,
        ALIGN_Y,
        WIDE,
        BLOCK_M,
        BLOCK_N,
        BLOCK_H,
        BLOCK_W,
    )
