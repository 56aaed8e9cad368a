"""dgrad in whole blocks of a phase's pixels: rows of the product are channels, columns pixels.

The phases are those of `tritonconv.kernels.stride_phases`. Each is a convolution of stride one over the features.
"""

import triton
import triton.language as tl

from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.stride_phases import phase_of
from tritonconv.kernels.tma.descriptors import describe_folded
from tritonconv.kernels.tma.gemm import multiply_sum_blocks
from tritonconv.kernels.tma.index import block_of, blocks_of
from tritonconv.kernels.tma.store import copy_block_out, store_block


@triton.jit(
    do_not_specialize=[*INTEGERS, "period_h", "period_w", "groups"], do_not_specialize_on_alignment=["bias_ptr"]
)
def dgrad_tma_kernel(
    features,
    weight,
    result,
    y_ptr,
    weight_ptr,
    bias_ptr,
    x_ptr,
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
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    WIDE: tl.constexpr,
    STRIDED: tl.constexpr,
    STORES_FOLDED: tl.constexpr,
    HALVES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
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
    """x[b,c,h,w] = bias[c] + sum over f and all p,q,r,s that fall on h,w of weight[f,c,r,s] * y[b,f,p,q]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w.

    The formula holds for each group: c and f count its C channels and F filters. If TRANSPOSED, the weight lies as
    (group, F, R, S, C) without gaps. Otherwise it lies as (group, C, R, S, F), with zeros behind F up to a multiple of
    BLOCK_K. The bias lies as (group, C), and `bias_ptr` may be None.

    `features`, `weight` and `result` are TMA descriptors that the host has made of y, the weight and x. Then `y_ptr`,
    `weight_ptr` and `x_ptr` are None. Otherwise these are pointers, and the descriptors are None: each program builds
    its own. The host makes no `result` if threads store the results, through `x_ptr`.

    Filters are adjacent in y. F, and the strides of y over b, p and q, are passed divided by VECTOR_Y. C, and the
    strides of x over b, h and w, are passed divided by VECTOR_X. If VECTOR_X > 1, channels are adjacent in x.

    If STRIDED, each tile belongs to one of several phases. Otherwise there is one phase: the stride is 1. TMA copies
    blocks of results out if VECTOR_X > 1 and not STRIDED, or if STORES_FOLDED (`copy_block_out`, which explains
    HALVES). Otherwise threads store them, VECTOR_X channels at once (`store_block`). `store_result` explains WIDE.

    If STORES_FOLDED, one descriptor has all phases. It is possible only if STRIDED and VECTOR_X > 1. There is one group
    then, BLOCK_N divides C, the stride divides H and W, and the pixels of a row of x lie without gaps.

    A block of BLOCK_M pixels of a phase has BLOCK_B images, BLOCK_H rows and BLOCK_W columns. The periods are those of
    `phase`. `multiply_sum_blocks` and `raster` explain the other constants.
    """
    C *= VECTOR_X
    F *= VECTOR_Y
    wide_C = C.to(tl.int64)
    wide_F = F.to(tl.int64)
    wide_xb = stride_xb.to(tl.int64) * VECTOR_X
    wide_xh = stride_xh.to(tl.int64) * VECTOR_X
    wide_xw = stride_xw.to(tl.int64) * VECTOR_X
    wide_yb = stride_yb.to(tl.int64) * VECTOR_Y
    wide_yp = stride_yp.to(tl.int64) * VECTOR_Y
    wide_yq = stride_yq.to(tl.int64) * VECTOR_Y

    if features is None:
        features = tl.make_tensor_descriptor(
            y_ptr,
            [B, P, Q, groups, F],
            [wide_yb, wide_yp, wide_yq, wide_F, 1],
            [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_K],
        )
    pitch = C if TRANSPOSED else tl.cdiv(F, BLOCK_K) * BLOCK_K
    if weight is None:
        columns = R * S * (wide_C if TRANSPOSED else pitch.to(tl.int64))
        if TRANSPOSED:
            weight = tl.make_tensor_descriptor(
                weight_ptr, [groups, F, R * S * pitch], [F * columns, columns, 1], [1, BLOCK_K, BLOCK_N]
            )
        else:
            weight = tl.make_tensor_descriptor(
                weight_ptr, [groups, C, R * S * pitch], [C * columns, columns, 1], [1, BLOCK_N, BLOCK_K]
            )
        if STORES_FOLDED:
            result = describe_folded(
                x_ptr=x_ptr,
                strides=(wide_xb, wide_xh, wide_xw),
                images=B,
                extent=(H, W),
                C=C,
                stride=(stride_h, stride_w),
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
                BLOCK_C=BLOCK_N // 2 if HALVES else BLOCK_N,
            )
        elif VECTOR_X > 1 and not STRIDED:
            result = tl.make_tensor_descriptor(
                x_ptr,
                [B, H, W, groups, C],
                [wide_xb, wide_xh, wide_xw, wide_C, 1],
                [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_N // 2 if HALVES else BLOCK_N],
            )

    # Each phase gets as many tiles as the largest one needs. Tiles beyond the pixels of a smaller one store nothing.
    most_pixels_h = tl.cdiv(H, stride_h)
    most_pixels_w = tl.cdiv(W, stride_w)
    tiles_m = blocks_of(images=B, extent=(most_pixels_h, most_pixels_w), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
    tiles_n = tl.cdiv(C, BLOCK_N)
    tiles = tiles_m * tiles_n
    tiles_in_all = tiles * groups * stride_h * stride_w
    # A persistent kernel: each program computes one tile after another. Flattened, the loops over tiles and steps are
    # one loop: it loads the first operands of the next tile while this one is stored.
    for tile in tl.range(tl.program_id(0), tiles_in_all, tl.num_programs(0), flatten=not STRIDED):
        g = tile // tiles % groups
        tile_m, tile_n = raster(pid=tile % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)
        b, i, j = block_of(tile=tile_m, extent=(most_pixels_h, most_pixels_w), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
        first_n = tile_n * BLOCK_N
        phase_index = tile // (tiles * groups)
        if STRIDED:
            r, s, taps_h, taps_w, first_p, first_q, start_h, start_w, pixels_h, pixels_w = phase_of(
                index=phase_index,
                stride=(stride_h, stride_w),
                pad=(pad_h, pad_w),
                dilation=(dilation_h, dilation_w),
                period=(period_h, period_w),
                taps=(R, S),
                extent=(H, W),
            )
            steps = tl.where((i < pixels_h) & (j < pixels_w), tl.cdiv(F, BLOCK_K) * taps_h * taps_w, 0)
        else:  # one phase: all tiles take equally many steps, as a flattened loop needs
            r, taps_h, first_p, start_h, pixels_h = 0, R, pad_h, 0, H
            s, taps_w, first_q, start_w, pixels_w = 0, S, pad_w, 0, W
            steps = tl.cdiv(F, BLOCK_K) * R * S
        accumulator = multiply_sum_blocks(
            accumulator=tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32),
            side=features,
            weight=weight,
            corner=(b, first_p + i, first_q + j),
            g=g,
            first_n=first_n,
            taps=(taps_h, taps_w),
            # The next tap of the phase looks further back, so steps are negative.
            step=(-(dilation_h * period_h // stride_h), -(dilation_w * period_w // stride_w)),
            first_tap=r * S + s,
            tap_step=(period_h * S, period_w),
            pitch=pitch,
            steps=steps,
            TRANSPOSED=TRANSPOSED,
            PRECISION=PRECISION,
            DOT_DTYPE=DOT_DTYPE,
            BLOCK=(BLOCK_M, BLOCK_N, BLOCK_K),
        )
        if STORES_FOLDED or (VECTOR_X > 1 and not STRIDED):
            copy_block_out(
                result=result,
                dtype=result.dtype,
                bias_ptr=bias_ptr,
                accumulator=accumulator,
                corner=(b, i, j),
                start=(start_h, start_w),
                g=g,
                N=C,
                first_n=first_n,
                STORES_FOLDED=STORES_FOLDED,
                HALVES=HALVES,
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
            )
        else:
            store_block(
                result_ptr=x_ptr,
                result_strides=(stride_xb, stride_xc, stride_xh, stride_xw),
                bias_ptr=bias_ptr,
                accumulator=accumulator,
                corner=(b, i, j),
                images=B,
                extent=(pixels_h, pixels_w),
                start=(start_h, start_w),
                stride=(stride_h, stride_w),
                g=g.to(tl.int64),
                N=C,
                first_n=first_n,
                VECTOR=VECTOR_X,
                WIDE=WIDE,
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
            )
