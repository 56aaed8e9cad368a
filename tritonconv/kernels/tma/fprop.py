"""fprop in whole blocks of positions: an implicit GEMM whose rows are filters and whose columns are positions.

With a stride, a tap sees a sub-image: every stride-th pixel of each axis. Each sub-image has a loop over its taps. If
the stride divides the image, one TMA descriptor can have all sub-images, as further axes and channels. Then there is
one loop over all taps.
"""

import triton
import triton.language as tl

from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.tma.descriptors import describe_folded, describe_subimage
from tritonconv.kernels.tma.gemm import multiply_sum_blocks, multiply_sum_folded
from tritonconv.kernels.tma.index import block_of, blocks_of, in_subimage
from tritonconv.kernels.tma.store import copy_block_out, store_block


@triton.jit
def subimage_of(tap, stride, pad, dilation):
    """Return the first row and column of the sub-image that tap (r, s) sees, and two indices within the sub-image.

    The indices are the row and column that position (0, 0) sees with this tap. They may be negative.
    """
    r, s = tap
    stride_h, stride_w = stride
    pad_h, pad_w = pad
    dilation_h, dilation_w = dilation
    start_h, at_h = in_subimage(r * dilation_h - pad_h, stride_h)
    start_w, at_w = in_subimage(s * dilation_w - pad_w, stride_w)
    return start_h, start_w, at_h, at_w


@triton.jit(
    do_not_specialize=[*INTEGERS, "period_h", "period_w", "groups"], do_not_specialize_on_alignment=["bias_ptr"]
)
def fprop_tma_kernel(
    image,
    weight,
    result,
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
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    WIDE: tl.constexpr,
    ONE_SUBIMAGE: tl.constexpr,
    LOADS_FOLDED: tl.constexpr,
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

    The formula holds for each group: c and f count its C channels and F filters. The weight lies as
    (group, F, R, S, C) without gaps, and the bias as (group, F). `bias_ptr` may be None.

    `image`, `weight` and `result` are TMA descriptors that the host has made of x, the weight and y. Then `x_ptr`,
    `weight_ptr` and `y_ptr` are None. Otherwise these are pointers, and the descriptors are None: each program builds
    its own. Programs also build them if each sub-image needs a descriptor. The host makes no `result` if elements are
    stored one by one, through `y_ptr`.

    Channels are adjacent in x. C, and the strides of x over b, h and w, are passed divided by VECTOR_X. F, and the
    strides of y over b, p and q, are passed divided by VECTOR_Y. If VECTOR_Y > 1, filters are adjacent in y, and TMA
    copies blocks of results out (`copy_block_out`, which explains HALVES). Otherwise elements are stored one by one
    (`store_block`), at 64-bit offsets if WIDE.

    Taps that are a period apart see the same sub-image. Each sub-image has a descriptor, and a loop over the taps that
    see it. If ONE_SUBIMAGE, all taps see the same one. If LOADS_FOLDED, one descriptor has all sub-images instead, and
    one loop runs over all taps. There is one group then, BLOCK_K divides C, the stride divides H and W, and the pixels
    of a row of x lie without gaps.

    A block of BLOCK_M positions has BLOCK_B images, BLOCK_H rows and BLOCK_W columns. `multiply_sum_blocks` and
    `raster` explain the other constants.
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

    if weight is None:
        columns = R * S * wide_C
        weight = tl.make_tensor_descriptor(
            weight_ptr, [groups, F, R * S * C], [F * columns, columns, 1], [1, BLOCK_N, BLOCK_K]
        )
        if LOADS_FOLDED:
            image = describe_folded(
                x_ptr=x_ptr,
                strides=(wide_xb, wide_xh, wide_xw),
                images=B,
                extent=(H, W),
                C=C,
                stride=(stride_h, stride_w),
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
                BLOCK_C=BLOCK_K,
            )
        elif ONE_SUBIMAGE:
            start_h, start_w, at_h, at_w = subimage_of(
                tap=(0, 0), stride=(stride_h, stride_w), pad=(pad_h, pad_w), dilation=(dilation_h, dilation_w)
            )
            image = describe_subimage(
                x_ptr=x_ptr,
                strides=(wide_xb, wide_xh, wide_xw, wide_C),
                images=B,
                extent=(H, W),
                groups=groups,
                C=C,
                start=(start_h, start_w),
                stride=(stride_h, stride_w),
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
                BLOCK_C=BLOCK_K,
            )
        if VECTOR_Y > 1:
            result = tl.make_tensor_descriptor(
                y_ptr,
                [B, P, Q, groups, F],
                [wide_yb, wide_yp, wide_yq, wide_F, 1],
                [BLOCK_B, BLOCK_H, BLOCK_W, 1, BLOCK_N // 2 if HALVES else BLOCK_N],
            )

    tiles_m = blocks_of(images=B, extent=(P, Q), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
    tiles_n = tl.cdiv(F, BLOCK_N)
    tiles = tiles_m * tiles_n
    # A persistent kernel: each program computes one tile after another. Flattened, the loops over tiles and steps are
    # one loop: it loads the first operands of the next tile while this one is stored.
    for tile in tl.range(tl.program_id(0), tiles * groups, tl.num_programs(0), flatten=LOADS_FOLDED or ONE_SUBIMAGE):
        g = tile // tiles
        tile_m, tile_n = raster(pid=tile % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)
        b, p, q = block_of(tile=tile_m, extent=(P, Q), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
        first_n = tile_n * BLOCK_N
        accumulator = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        if LOADS_FOLDED:
            accumulator = multiply_sum_folded(
                accumulator=accumulator,
                side=image,
                weight=weight,
                corner=(b, p, q),
                first_n=first_n,
                taps=(R, S),
                first=(-pad_h, -pad_w),
                stride=(stride_h, stride_w),
                dilation=(dilation_h, dilation_w),
                C=C,
                PRECISION=PRECISION,
                DOT_DTYPE=DOT_DTYPE,
                BLOCK=(BLOCK_M, BLOCK_N, BLOCK_K),
            )
        else:
            # One loop for each sub-image.
            for tap in range(1 if ONE_SUBIMAGE else tl.minimum(period_h, R) * tl.minimum(period_w, S)):
                r = 0 if ONE_SUBIMAGE else tap // tl.minimum(period_w, S)
                s = 0 if ONE_SUBIMAGE else tap % tl.minimum(period_w, S)
                taps_h = tl.cdiv(R - r, period_h)
                taps_w = tl.cdiv(S - s, period_w)
                start_h, start_w, at_h, at_w = subimage_of(
                    tap=(r, s), stride=(stride_h, stride_w), pad=(pad_h, pad_w), dilation=(dilation_h, dilation_w)
                )
                if ONE_SUBIMAGE:
                    subimage = image
                else:
                    subimage = describe_subimage(
                        x_ptr=x_ptr,
                        strides=(wide_xb, wide_xh, wide_xw, wide_C),
                        images=B,
                        extent=(H, W),
                        groups=groups,
                        C=C,
                        start=(start_h, start_w),
                        stride=(stride_h, stride_w),
                        BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
                        BLOCK_C=BLOCK_K,
                    )
                # No step runs for a sub-image without pixels.
                has_pixels = (start_h < H) & (start_w < W)
                accumulator = multiply_sum_blocks(
                    accumulator=accumulator,
                    side=subimage,
                    weight=weight,
                    corner=(b, p + at_h, q + at_w),
                    g=g,
                    first_n=first_n,
                    taps=(taps_h, taps_w),
                    step=(dilation_h * period_h // stride_h, dilation_w * period_w // stride_w),
                    first_tap=r * S + s,
                    tap_step=(period_h * S, period_w),
                    pitch=C,
                    steps=tl.where(has_pixels, tl.cdiv(C, BLOCK_K) * taps_h * taps_w, 0),
                    TRANSPOSED=False,
                    PRECISION=PRECISION,
                    DOT_DTYPE=DOT_DTYPE,
                    BLOCK=(BLOCK_M, BLOCK_N, BLOCK_K),
                )
        if VECTOR_Y > 1:
            copy_block_out(
                result=result,
                dtype=result.dtype,
                bias_ptr=bias_ptr,
                accumulator=accumulator,
                corner=(b, p, q),
                start=(0, 0),
                g=g,
                N=F,
                first_n=first_n,
                STORES_FOLDED=False,
                HALVES=HALVES,
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
            )
        else:
            store_block(
                result_ptr=y_ptr,
                result_strides=(stride_yb, stride_yf, stride_yp, stride_yq),
                bias_ptr=bias_ptr,
                accumulator=accumulator,
                corner=(b, p, q),
                images=B,
                extent=(P, Q),
                start=(0, 0),
                stride=(1, 1),
                g=g.to(tl.int64),
                N=F,
                first_n=first_n,
                VECTOR=VECTOR_Y,
                WIDE=WIDE,
                BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W),
            )
