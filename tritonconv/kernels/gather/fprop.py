"""fprop as one implicit GEMM: rows are output positions, columns filters, the reduction runs over channels and taps.

If the weight varies, each sample or location has a GEMM of its own, of one image or of one position.
"""

import triton
import triton.language as tl

from tritonconv.kernels.gather.gemm import multiply_sum
from tritonconv.kernels.gather.index import BIAS_STRIDES, place_of
from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.store import store_result


@triton.jit(do_not_specialize=[*INTEGERS, *BIAS_STRIDES], do_not_specialize_on_alignment=["bias_ptr"])
def fprop_kernel(
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
    stride_bias_b,
    stride_bias_n,
    stride_bias_h,
    stride_bias_w,
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
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
    """y[b,f,p,q] = bias[f] + sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.

    The formula holds for each group: c and f count its C channels and F filters. The weight lies as
    (b, p, q, group, F, R, S, C) without gaps. It has the axis b only if PER_SAMPLE, and p and q only if PER_LOCATION.
    `bias_ptr` may be None. If BIAS_VARIES, the bias has strides over b, f, p and q, which are 0 over the axes that it
    does not vary over. Otherwise it lies as (group, F) without gaps.

    Loads take VECTOR_X channels of x at once, and stores VECTOR_Y filters of y. If that is more than one, they are
    adjacent in memory. C, and the strides of x over b, h and w, are passed divided by VECTOR_X. F, and the strides of y
    over b, p and q, are passed divided by VECTOR_Y. Multiplying by the constant again lets the compiler see the
    alignment and copy 16 bytes at a time. `multiply_sum`, `store_result` (WIDE) and `raster` (GROUP_M) explain the
    other constants.
    """
    C *= VECTOR_X
    F *= VECTOR_Y
    # With 64-bit strides, all offsets that follow have 64 bits.
    stride_xb = stride_xb.to(tl.int64) * VECTOR_X
    stride_xh = stride_xh.to(tl.int64) * VECTOR_X
    stride_xw = stride_xw.to(tl.int64) * VECTOR_X
    stride_xc = 1 if VECTOR_X > 1 else stride_xc.to(tl.int64)

    samples, positions_h, positions_w = B, P, Q
    if PER_SAMPLE:
        B = 1
    if PER_LOCATION:
        P = 1
        Q = 1
    tiles_m = tl.cdiv(B * P * Q, BLOCK_M)
    tiles_n = tl.cdiv(F, BLOCK_N)
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    product = (pid // tiles).to(tl.int64)
    tile_m, tile_n = raster(pid=pid % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)
    products = tl.num_programs(0) // tiles
    sample, i, j, g, _ = place_of(
        product=product,
        products=products,
        samples=samples,
        extent=(positions_h, positions_w),
        PER_SAMPLE=PER_SAMPLE,
        PER_LOCATION=PER_LOCATION,
    )
    if PER_SAMPLE:
        x_ptr += sample * stride_xb
        y_ptr += sample * stride_yb * VECTOR_Y
    if PER_LOCATION:
        y_ptr += (i * stride_yp + j * stride_yq) * VECTOR_Y
        pad_h -= (i * stride_h).to(tl.int32)
        pad_w -= (j * stride_w).to(tl.int32)
    # The weight varies over every axis that the bias varies over.
    if BIAS_VARIES:
        bias_ptr += sample * stride_bias_b + i * stride_bias_h + j * stride_bias_w

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_m = m < B * P * Q
    b = (m // (P * Q)).to(tl.int64)
    p = m // Q % P
    q = m % Q
    f = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    first_h = p * stride_h - pad_h
    first_w = q * stride_w - pad_w
    x_rows = b * stride_xb + first_h * stride_xh + first_w * stride_xw
    accumulator = multiply_sum(
        side_ptrs=x_ptr + g * C * stride_xc + x_rows[:, None] + (k * stride_xc)[None, :],
        weight_ptrs=weight_ptr + ((product * F + tl.minimum(f, F - 1)) * R * S * C)[None, :] + k[:, None],
        taps=(R, S),
        K=C,
        first=(first_h, first_w),
        extent=(H, W),
        step=(dilation_h, dilation_w),
        side_strides=(stride_xh, stride_xw, stride_xc),
        weight_strides=(S * C, C, 1),
        steps=tl.cdiv(C, BLOCK_K) * R * S,
        valid_m=valid_m,
        valid_n=f < F,
        AXES_PER_INTEGER=AXES_PER_INTEGER,
        WIDE_STEPS=WIDE_STEPS,
        N_ADJACENT=False,
        MASKS_WEIGHT=False,
        PRECISION=PRECISION,
        DOT_DTYPE=DOT_DTYPE,
        BLOCK=(BLOCK_M, BLOCK_N, BLOCK_K),
        STAGES=STAGES,
    )
    store_result(
        result_ptr=y_ptr,
        result_strides=(stride_yb, stride_yf, stride_yp, stride_yq),
        bias_ptr=bias_ptr,
        stride_bias_n=stride_bias_n,
        accumulator=accumulator,
        pixel=(b, p, q),
        g=g,
        N=F,
        first_n=tile_n * BLOCK_N,
        valid_m=valid_m,
        BIAS_VARIES=BIAS_VARIES,
        VECTOR=VECTOR_Y,
        WIDE=WIDE,
    )
