"""dgrad as one implicit GEMM for each phase of the stride: rows are the phase's pixels, columns are channels.

With a stride of s, every s-th pixel of an axis is in the same phase: these pixels see the same taps. The taps of a
phase stand at equal distances, and its neighbouring pixels look at neighbouring positions. So a phase is a convolution
of stride one over the features, with filters of its own. No tap that falls between two positions is ever multiplied.

If the weight varies over locations, only one pixel uses a given tap of a given location. So each pixel of a phase has a
GEMM of its own, whose rows are the images. It takes the weight of another location with each tap.
"""

import triton
import triton.language as tl

from tritonconv.kernels.gather.gemm import multiply_sum
from tritonconv.kernels.gather.index import BIAS_STRIDES, place_of
from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.store import store_result
from tritonconv.kernels.stride_phases import phase_of


@triton.jit(
    do_not_specialize=[*INTEGERS, *BIAS_STRIDES, "period_h", "period_w"], do_not_specialize_on_alignment=["bias_ptr"]
)
def dgrad_kernel(
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
    stride_bias_b,
    stride_bias_n,
    stride_bias_h,
    stride_bias_w,
    period_h,
    period_w,
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    VECTOR_WEIGHT: tl.constexpr,
    WIDE: tl.constexpr,
    AXES_PER_INTEGER: tl.constexpr,
    WIDE_STEPS: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    PER_LOCATION: tl.constexpr,
    BIAS_VARIES: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    """x[b,c,h,w] = bias[c] + sum over f and all p,q,r,s that fall on h,w of weight[f,c,r,s] * y[b,f,p,q]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w.

    The formula holds for each group: c and f count its C channels and F filters. The weight lies as
    (group, C, R, S, F) without gaps. A weight that varies lies as (b, p, q, group, F, R, S, C) instead, and C is a
    multiple of VECTOR_WEIGHT. It has the axis b only if PER_SAMPLE, and p and q only if PER_LOCATION.
    `bias_ptr` may be None. If BIAS_VARIES, the bias has strides over b, c, h and w, which are 0 over the axes that it
    does not vary over. Otherwise it lies as (group, C) without gaps.

    Loads take VECTOR_Y filters of y at once, and stores VECTOR_X channels of x. If that is more than one, they are
    adjacent in memory. F, and the strides of y over b, p and q, are passed divided by VECTOR_Y. C, and the strides of x
    over b, h and w, are passed divided by VECTOR_X. The periods are those of `phase`. `multiply_sum`, `store_result`
    (WIDE) and `raster` (GROUP_M) explain the other constants.
    """
    C *= VECTOR_X
    F *= VECTOR_Y
    # With 64-bit strides, all offsets that follow have 64 bits.
    stride_yb = stride_yb.to(tl.int64) * VECTOR_Y
    stride_yp = stride_yp.to(tl.int64) * VECTOR_Y
    stride_yq = stride_yq.to(tl.int64) * VECTOR_Y
    stride_yf = 1 if VECTOR_Y > 1 else stride_yf.to(tl.int64)

    # Each phase gets as many programs as the largest one needs. Programs beyond the pixels of a smaller one do nothing.
    samples = B
    if PER_SAMPLE:
        B = 1
    most_pixels_h = tl.cdiv(H, stride_h)
    most_pixels_w = tl.cdiv(W, stride_w)
    most_pixels = 1 if PER_LOCATION else most_pixels_h * most_pixels_w
    tiles_m = tl.cdiv(B * most_pixels, BLOCK_M)
    tiles_n = tl.cdiv(C, BLOCK_N)
    pid = tl.program_id(0)
    tiles = tiles_m * tiles_n
    products = tl.num_programs(0) // (tiles * stride_h * stride_w)
    phase_index = pid // (tiles * products)
    r, s, taps_h, taps_w, first_p, first_q, start_h, start_w, pixels_h, pixels_w = phase_of(
        index=phase_index,
        stride=(stride_h, stride_w),
        pad=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
        period=(period_h, period_w),
        taps=(R, S),
        extent=(H, W),
    )
    product = (pid // tiles % products).to(tl.int64)
    sample, pixel_h, pixel_w, g, groups = place_of(
        product=product,
        products=products,
        samples=samples,
        extent=(most_pixels_h, most_pixels_w),
        PER_SAMPLE=PER_SAMPLE,
        PER_LOCATION=PER_LOCATION,
    )
    tile_m, tile_n = raster(pid=pid % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)

    pixels = B * pixels_h * pixels_w
    if PER_SAMPLE:
        x_ptr += sample * stride_xb * VECTOR_X
        y_ptr += sample * stride_yb
    if PER_LOCATION:
        pixels = tl.where((pixel_h < pixels_h) & (pixel_w < pixels_w), B, 0)
        first_p += pixel_h.to(tl.int32)
        first_q += pixel_w.to(tl.int32)
        start_h += pixel_h.to(tl.int32) * stride_h
        start_w += pixel_w.to(tl.int32) * stride_w
        pixels_h = 1
        pixels_w = 1
    # The weight varies over every axis that the bias varies over.
    if BIAS_VARIES:
        bias_ptr += sample * stride_bias_b
        if PER_LOCATION:
            # A pixel beyond the image has no bias to point to.
            bias_ptr += tl.where(
                pixels > 0, start_h.to(tl.int64) * stride_bias_h + start_w.to(tl.int64) * stride_bias_w, 0
            )
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_m = m < pixels
    pixels_h = tl.maximum(pixels_h, 1)
    pixels_w = tl.maximum(pixels_w, 1)
    b = (m // (pixels_h * pixels_w)).to(tl.int64)
    i = m // pixels_w % pixels_h
    j = m % pixels_w
    c = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    # The next tap of the phase looks further back, so steps are negative.
    step_h = -(dilation_h * period_h // stride_h)
    step_w = -(dilation_w * period_w // stride_w)
    if not PER_LOCATION:
        first_p += i
        first_q += j
    y_rows = b * stride_yb + first_p * stride_yp + first_q * stride_yq
    steps = tl.cdiv(F, BLOCK_K) * taps_h * taps_w
    y_ptrs = y_ptr + g * F * stride_yf + y_rows[:, None] + (k * stride_yf)[None, :]

    if PER_SAMPLE or PER_LOCATION:
        # The weight as it is stored: f is far apart, so a step reads it transposed. As a multiple of a constant, C lets
        # the compiler see the alignment.
        C_stored = C // VECTOR_WEIGHT * VECTOR_WEIGHT
        stride_k = (R * S).to(tl.int64) * C_stored
        stride_r = period_h * S * C_stored
        stride_s = period_w * C_stored
        weight_index = g
        if PER_LOCATION:
            # The location changes with the tap.
            stride_q = groups * F * stride_k
            stride_r += step_h * Q * stride_q
            stride_s += step_w * stride_q
            weight_index += ((sample * P + first_p) * Q + first_q) * groups
        else:
            weight_index += sample * groups
        columns = weight_index * F * stride_k + (r * S + s) * C_stored + c
        weight_ptrs = weight_ptr + columns[None, :] + (k * stride_k)[:, None]
    else:
        stride_k = 1
        stride_r = period_h * S * F
        stride_s = period_w * F
        weight_ptrs = weight_ptr + (((g * C + tl.minimum(c, C - 1)) * R + r) * S + s)[None, :] * F + k[:, None]
    accumulator = multiply_sum(
        side_ptrs=y_ptrs,
        weight_ptrs=weight_ptrs,
        taps=(taps_h, taps_w),
        K=F,
        first=(first_p, first_q),
        extent=(P, Q),
        step=(step_h, step_w),
        side_strides=(stride_yp, stride_yq, stride_yf),
        weight_strides=(stride_r, stride_s, stride_k),
        steps=tl.where(tile_m * BLOCK_M < pixels, steps, 0),
        valid_m=valid_m,
        valid_n=c < C,
        AXES_PER_INTEGER=AXES_PER_INTEGER,
        WIDE_STEPS=WIDE_STEPS,
        N_ADJACENT=PER_SAMPLE or PER_LOCATION,
        MASKS_WEIGHT=PER_LOCATION,
        PRECISION=PRECISION,
        DOT_DTYPE=DOT_DTYPE,
        BLOCK=(BLOCK_M, BLOCK_N, BLOCK_K),
        STAGES=STAGES,
    )
    store_result(
        result_ptr=x_ptr,
        result_strides=(stride_xb, stride_xc, stride_xh, stride_xw),
        bias_ptr=bias_ptr,
        stride_bias_n=stride_bias_n,
        accumulator=accumulator,
        pixel=(b, start_h + i * stride_h, start_w + j * stride_w),
        g=g,
        N=C,
        first_n=tile_n * BLOCK_N,
        valid_m=valid_m,
        BIAS_VARIES=BIAS_VARIES,
        VECTOR=VECTOR_X,
        WIDE=WIDE,
    )
