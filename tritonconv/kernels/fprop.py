"""fprop as one implicit GEMM: rows are output pixels, columns filters, the reduction runs over channels and taps."""

import triton
import triton.language as tl

from tritonconv.kernels.index import raster, store_transposed, tap_bits, tap_inside

SIZES = ["B", "C", "H", "W", "F", "P", "Q", "R", "S"]
STRIDES = ["stride_xb", "stride_xc", "stride_xh", "stride_xw", "stride_yb", "stride_yf", "stride_yp", "stride_yq"]
SAMPLING = ["stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"]


@triton.jit(do_not_specialize=SIZES + STRIDES + SAMPLING, do_not_specialize_on_alignment=["bias_ptr"])
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
    ALIGN_X: tl.constexpr,
    ALIGN_Y: tl.constexpr,
    WIDE_Y: tl.constexpr,
    TAP_BITS: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """y[b,f,p,q] = bias[f] + sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.
    C and F count the channels and filters of one group. The weight lies as (F, R, S, C) without gaps.
    ALIGN_X > 1 says that channels are adjacent in x, and that C and every stride of x were divided by ALIGN_X; ALIGN_Y
    says the same of F and y. Multiplying them back by a constant is what lets the compiler see the alignment and copy
    16 bytes at a time. WIDE_Y says that y is too large for 32-bit offsets, whose 64-bit kin cost registers.
    """
    C *= ALIGN_X
    F *= ALIGN_Y
    # Strides in 64 bits make every offset below 64 bits wide.
    stride_xb = stride_xb.to(tl.int64) * ALIGN_X
    stride_xh = stride_xh.to(tl.int64) * ALIGN_X
    stride_xw = stride_xw.to(tl.int64) * ALIGN_X
    stride_xc = 1 if ALIGN_X > 1 else stride_xc.to(tl.int64)

    tiles_m = tl.cdiv(B * P * Q, BLOCK_M)
    tiles_n = tl.cdiv(F, BLOCK_N)
    pid = tl.program_id(0)
    g = (pid // (tiles_m * tiles_n)).to(tl.int64)
    tile_m, tile_n = raster(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_m = m < B * P * Q
    b = (m // (P * Q)).to(tl.int64)
    p = m // Q % P
    q = m % Q
    f = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    valid_f = f < F
    k = tl.arange(0, BLOCK_K)

    first_h = p * stride_h - pad_h
    first_w = q * stride_w - pad_w
    bits_h = tl.where(valid_m, tap_bits(first_h, H, dilation_h, R), 0)
    bits_w = tap_bits(first_w, W, dilation_w, S)

    x_rows = b * stride_xb + first_h * stride_xh + first_w * stride_xw
    x_ptrs = x_ptr + g * C * stride_xc + x_rows[:, None] + (k * stride_xc)[None, :]
    weight_columns = (g * F + f) * R * S * C
    weight_ptrs = weight_ptr + weight_columns[None, :] + k[:, None]

    accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    r = 0
    s = 0
    c = 0
    # Channel blocks outside, taps inside: neighbouring taps re-read x from cache, and each load stays aligned.
    for _ in range(tl.cdiv(C, BLOCK_K) * R * S):
        inside_h = tap_inside(first_h, bits_h, H, dilation_h, r, TAP_BITS)
        inside_w = tap_inside(first_w, bits_w, W, dilation_w, s, TAP_BITS)
        valid_c = k < C - c
        tap = (r * dilation_h) * stride_xh + (s * dilation_w) * stride_xw
        x = tl.load(
            x_ptrs + (tap + c * stride_xc),
            mask=(inside_h & inside_w & valid_m)[:, None] & valid_c[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptrs + ((r * S + s) * C + c),
            mask=valid_c[:, None] & valid_f[None, :],
            other=0.0,
        )
        accumulator = tl.dot(x.to(DOT_DTYPE), weight.to(DOT_DTYPE), accumulator, input_precision=PRECISION)
        s += 1
        r = tl.where(s == S, r + 1, r)
        s = tl.where(s == S, 0, s)
        c = tl.where(r == R, c + BLOCK_K, c)
        r = tl.where(r == R, 0, r)

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + g * F + f, mask=valid_f, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
    y = accumulator.to(y_ptr.dtype.element_ty)
    # Widening b early and narrowing it here, and leaving an unused stride_yf alone, changes no value: written more
    # simply, tests/test_lowering.py finds a few bytes spilled in the float32 tiles.
    if ALIGN_Y == 1 and WIDE_Y:
        stride_yf = stride_yf.to(tl.int64)
    if ALIGN_Y > 1 or WIDE_Y:
        stride_yb = stride_yb.to(tl.int64) * ALIGN_Y
        stride_yp = stride_yp.to(tl.int64) * ALIGN_Y
        stride_yq = stride_yq.to(tl.int64) * ALIGN_Y
    y_rows = b.to(tl.int32) * stride_yb + p * stride_yp + q * stride_yq
    if ALIGN_Y > 1:
        y_ptrs = y_ptr + (y_rows[:, None] + (g * F + f)[None, :])
        tl.store(y_ptrs, y, mask=valid_m[:, None] & valid_f[None, :])
    else:
        first_f = (g * F).to(tl.int32) + tile_n * BLOCK_N
        end_f = (g * F).to(tl.int32) + F
        # Addresses one element apart take a register each: half of them at a time is what fits.
        first, second = tl.split(tl.reshape(y, (BLOCK_M, 2, BLOCK_N // 2)).permute(0, 2, 1))
        store_transposed(y_ptr, first, y_rows, valid_m, first_f, end_f, stride_yf)
        store_transposed(y_ptr, second, y_rows, valid_m, first_f + BLOCK_N // 2, end_f, stride_yf)
