"""fprop in whole blocks of positions: an implicit GEMM whose rows are filters and whose columns are positions.

With a stride, every stride-th pixel of an axis is an image of its own, to some of the taps: one loop runs over each.
Where the stride divides the image, these images are further axes and channels of it, and one loop runs over all taps.
"""

import triton
import triton.language as tl

from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.tma.gemm import multiply_sum_blocks, multiply_sum_folded
from tritonconv.kernels.tma.index import block_of, blocks_of, seen
from tritonconv.kernels.tma.store import copy_block_out, store_block


@triton.jit
def first_seen(r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w):
    """The first row and column of the image that tap (r, s) sees, and which of its pixels position (0, 0) does."""
    start_h, at_h = seen(r * dilation_h - pad_h, stride_h)
    start_w, at_w = seen(s * dilation_w - pad_w, stride_w)
    return start_h, start_w, at_h, at_w


@triton.jit
def seen_rows(extent, start, stride):
    """How many of an axis' pixels are in the image of every stride-th from `start`; one at least, as hardware wants."""
    return tl.maximum(tl.cdiv(extent - start, stride), 1)


@triton.jit(
    do_not_specialize=[*INTEGERS, "period_h", "period_w", "groups"], do_not_specialize_on_alignment=["bias_ptr"]
)
def fprop_tma_kernel(
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
    groups,
    ALIGN_X: tl.constexpr,
    ALIGN_Y: tl.constexpr,
    WIDE: tl.constexpr,
    ONE_IMAGE: tl.constexpr,
    FOLDED: tl.constexpr,
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
    """y[b,f,p,q] = bias[f] + sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.
    C and F count the channels and filters of one group. The weight lies as (F, R, S, C) without gaps. Channels are
    adjacent in x, and C and every stride of x were divided by ALIGN_X; ALIGN_Y > 1 says the same of F and y. WIDE says
    that y is too large for 32-bit offsets. Every period-th tap sees the same of an axis' stride images, and all taps
    the same one if ONE_IMAGE. FOLDED says that one group has whole blocks of channels, that the stride divides H and W,
    and that the pixels of a row lie without gaps: then one loop runs over all taps.
    """
    C *= ALIGN_X
    F *= ALIGN_Y
    wide_C = C.to(tl.int64)
    wide_F = F.to(tl.int64)
    wide_xb = stride_xb.to(tl.int64) * ALIGN_X
    wide_xh = stride_xh.to(tl.int64) * ALIGN_X
    wide_xw = stride_xw.to(tl.int64) * ALIGN_X
    wide_yb = stride_yb.to(tl.int64) * ALIGN_Y
    wide_yp = stride_yp.to(tl.int64) * ALIGN_Y
    wide_yq = stride_yq.to(tl.int64) * ALIGN_Y

    columns = R * S * wide_C
    weight = tl.make_tensor_descriptor(
        weight_ptr, [groups, F, R * S * C], [F * columns, columns, 1], [1, BLOCK_N, BLOCK_K]
    )
    if FOLDED:
        image = tl.make_tensor_descriptor(
            x_ptr,
            [B, H // stride_h, stride_h, W // stride_w, stride_w * C],
            [wide_xb, stride_h * wide_xh, wide_xh, stride_w * wide_xw, 1],
            [BLOCK_B, BLOCK_H, 1, BLOCK_W, BLOCK_K],
        )
    elif ONE_IMAGE:
        start_h, start_w, at_h, at_w = first_seen(0, 0, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
        image = tl.make_tensor_descriptor(
            x_ptr + start_h * wide_xh + start_w * wide_xw,
            [B, seen_rows(H, start_h, stride_h), seen_rows(W, start_w, stride_w), groups, C],
            [wide_xb, stride_h * wide_xh, stride_w * wide_xw, wide_C, 1],
            [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_K],
        )
    if ALIGN_Y > 1:
        result = tl.make_tensor_descriptor(
            y_ptr,
            [B, P, Q, groups, F],
            [wide_yb, wide_yp, wide_yq, wide_F, 1],
            [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_N // 2 if HALVES else BLOCK_N],
        )

    tiles_m = blocks_of(B, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
    tiles_n = tl.cdiv(F, BLOCK_N)
    tiles = tiles_m * tiles_n
    # As one loop over tiles and steps, which copies what the next tile begins with while this one is copied out.
    for tile in tl.range(tl.program_id(0), tiles * groups, tl.num_programs(0), flatten=FOLDED or ONE_IMAGE):
        g = tile // tiles
        tile_m, tile_n = raster(tile % tiles, tiles_m, tiles_n, GROUP_M)
        b, p, q = block_of(tile_m, P, Q, BLOCK_B, BLOCK_H, BLOCK_W)
        n = tile_n * BLOCK_N
        accumulator = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        if FOLDED:
            accumulator = multiply_sum_folded(
                accumulator,
                image,
                weight,
                b,
                p,
                q,
                n,
                R,
                S,
                stride_h,
                stride_w,
                -pad_h,
                -pad_w,
                dilation_h,
                dilation_w,
                C,
                PRECISION,
                DOT_DTYPE,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
            )
        else:
            # One loop for each image of every stride-th pixel.
            for tap in range(1 if ONE_IMAGE else tl.minimum(period_h, R) * tl.minimum(period_w, S)):
                r = 0 if ONE_IMAGE else tap // tl.minimum(period_w, S)
                s = 0 if ONE_IMAGE else tap % tl.minimum(period_w, S)
                taps_h = tl.cdiv(R - r, period_h)
                taps_w = tl.cdiv(S - s, period_w)
                start_h, start_w, at_h, at_w = first_seen(
                    r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w
                )
                if not ONE_IMAGE:
                    image = tl.make_tensor_descriptor(
                        x_ptr + start_h * wide_xh + start_w * wide_xw,
                        [B, seen_rows(H, start_h, stride_h), seen_rows(W, start_w, stride_w), groups, C],
                        [wide_xb, stride_h * wide_xh, stride_w * wide_xw, wide_C, 1],
                        [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_K],
                    )
                # Nothing is copied of an image so small that it has no pixel there.
                there = (start_h < H) & (start_w < W)
                accumulator = multiply_sum_blocks(
                    accumulator,
                    image,
                    weight,
                    b,
                    p + at_h,
                    q + at_w,
                    g,
                    n,
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
        if ALIGN_Y > 1:
            dtype = y_ptr.dtype.element_ty
            copy_block_out(
                result,
                dtype,
                bias_ptr,
                accumulator,
                b,
                p,
                q,
                g,
                F,
                n,
                0,
                0,
                False,
                HALVES,
                BLOCK_N,
                BLOCK_B,
                BLOCK_H,
                BLOCK_W,
            )
        else:
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
                g.to(tl.int64),
                F,
                n,
                ALIGN_Y,
                WIDE,
                BLOCK_M,
                BLOCK_N,
                BLOCK_H,
                BLOCK_W,
            )
