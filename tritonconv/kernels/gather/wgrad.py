"""wgrad as one matrix product: rows are filters, columns taps and channels, the reduction runs over all positions.

The reduction is by far the longest of the three operators, and the result the smallest, so programs share it (split-K).
Each writes its partial sums in float32; `sum_partials_kernel` adds them up, always in the same order.

If the weight varies, each sample or location has a product of its own, with a shorter reduction. If this reduction is
not split, its programs write the result itself, instead of partial sums.
"""

import triton
import triton.language as tl

from tritonconv.kernels.gather.index import place_of
from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.partial_sums import add_in_turn, row_of_part, store_bias_part


@triton.jit(do_not_specialize=[*INTEGERS, "splits"])
def wgrad_kernel(
    x_ptr,
    y_ptr,
    partials_ptr,
    bias_partials_ptr,
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
    splits,
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    WIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    PER_LOCATION: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """partials[split,f,r,s,c] = sum over the split's b,p,q of y[b,f,p,q] * x[b,c,h,w]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.
    Unless `bias_partials_ptr` is None, also bias_partials[part,f] = sum over the part's b,p,q of y[b,f,p,q].

    The formulas hold for each group: c and f count its C channels and F filters. `splits` programs share a reduction;
    each sums up a run of consecutive positions (b, p, q), where q counts fastest. The partial sums lie as
    (split, b, p, q, group, F, R, S, C) without gaps. If PER_SAMPLE they have the axis b, which is then not summed over,
    and if PER_LOCATION the axes p and q.

    The partial sums of the bias lie as (part, group, F) without gaps, for a weight that does not vary. There is a part
    for each split and each of the tiles_n columns of blocks: part = split*tiles_n + tile_n. The programs that share the
    filters and the split take turns in summing y (`add_in_turn`).

    Loads take VECTOR_X channels of x and VECTOR_Y filters of y at once. If that is more than one, they are adjacent in
    memory. C, and the strides of x over b, h and w, are passed divided by VECTOR_X. F, and the strides of y over b, p
    and q, are passed divided by VECTOR_Y. If WIDE, the offsets of positions in x and y are 64-bit, or else 32-bit.
    If DEPENDENT_LAUNCH, `sum_partials_kernel` may start as soon as all programs of this kernel have started.
    `multiply_sum` and `raster` explain the other constants.
    """
    if DEPENDENT_LAUNCH:
        # Called first, where it costs nothing. After the main loop it would change the registers of the loop.
        tl.extra.cuda.gdc_launch_dependents()
    C *= VECTOR_X
    F *= VECTOR_Y
    stride_xc = 1 if VECTOR_X > 1 else stride_xc.to(tl.int64)
    stride_yf = 1 if VECTOR_Y > 1 else stride_yf.to(tl.int64)
    if WIDE:
        stride_xb = stride_xb.to(tl.int64)
        stride_xh = stride_xh.to(tl.int64)
        stride_xw = stride_xw.to(tl.int64)
        stride_yb = stride_yb.to(tl.int64)
        stride_yp = stride_yp.to(tl.int64)
        stride_yq = stride_yq.to(tl.int64)
    stride_xb *= VECTOR_X
    stride_xh *= VECTOR_X
    stride_xw *= VECTOR_X
    stride_yb *= VECTOR_Y
    stride_yp *= VECTOR_Y
    stride_yq *= VECTOR_Y

    columns = R * S * C
    tiles_m = tl.cdiv(F, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    pid = tl.program_id(0)
    tiles = tiles_m * tiles_n
    products = tl.num_programs(0) // (tiles * splits)
    split = pid // (tiles * products)
    product = (pid // tiles % products).to(tl.int64)
    sample, i, j, g, _ = place_of(
        product=product,
        products=products,
        samples=B,
        extent=(P, Q),
        PER_SAMPLE=PER_SAMPLE,
        PER_LOCATION=PER_LOCATION,
    )
    if PER_SAMPLE:
        x_ptr += sample * stride_xb
        y_ptr += sample * stride_yb
        B = 1
    if PER_LOCATION:
        y_ptr += i * stride_yp + j * stride_yq
        pad_h -= (i * stride_h).to(tl.int32)
        pad_w -= (j * stride_w).to(tl.int32)
        P = 1
        Q = 1
    tile_m, tile_n = raster(pid=pid % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)

    f = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_f = f < F
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    valid_n = n < columns
    c = n % C
    # A column beyond the last looks below the image, and finds zeros there.
    tap_h = tl.where(valid_n, n // C // S * dilation_h - pad_h, H)
    tap_w = n // C % S * dilation_w - pad_w
    x_columns = x_ptr + (g * C + c) * stride_xc + tap_h.to(tl.int64) * stride_xh + tap_w.to(tl.int64) * stride_xw
    y_columns = y_ptr + (g * F + f) * stride_yf

    positions = B * P * Q
    steps = tl.cdiv(positions, BLOCK_K)
    steps_per_split = tl.cdiv(steps, splits)
    first_step = split * steps_per_split
    k = first_step * BLOCK_K + tl.arange(0, BLOCK_K)
    b = k // (P * Q)
    p = k // Q % P
    q = k % Q
    # BLOCK_K positions further on, written as digits: q counts to Q, and p to P. So the loop needs no division.
    step_b = BLOCK_K // (P * Q)
    step_p = BLOCK_K // Q % P
    step_q = BLOCK_K % Q

    accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    bias = tl.zeros((BLOCK_M,), dtype=tl.float32)
    turn = 0
    for _ in range(tl.minimum(steps_per_split, steps - first_step)):
        valid_k = b < B
        h = p * stride_h
        w = q * stride_w
        # Written as in `within`. Calling it gives the same TTIR, but ptxas makes more instructions of inlined code
        # here.
        inside_h = (h[:, None] + tap_h[None, :]).to(tl.uint32) < H.to(tl.uint32)
        inside_w = (w[:, None] + tap_w[None, :]).to(tl.uint32) < W.to(tl.uint32)
        x = tl.load(
            x_columns[None, :] + (b * stride_xb + h * stride_xh + w * stride_xw)[:, None],
            mask=inside_h & inside_w & valid_k[:, None],
            other=0.0,
        )
        y = tl.load(
            y_columns[None, :] + (b * stride_yb + p * stride_yp + q * stride_yq)[:, None],
            mask=valid_k[:, None] & valid_f[None, :],
            other=0.0,
        )
        if BLOCK_K < 16:
            # Too few positions for tensor cores: multiply one by one.
            accumulator += tl.sum(y.to(tl.float32)[:, :, None] * x.to(tl.float32)[:, None, :], 0)
        else:
            accumulator = tl.dot(tl.trans(y).to(DOT_DTYPE), x.to(DOT_DTYPE), accumulator, input_precision=PRECISION)
        if bias_partials_ptr is not None:
            bias, turn = add_in_turn(bias=bias, turn=turn, y=y, tile_n=tile_n, tiles_n=tiles_n)
        q += step_q
        p += tl.where(q >= Q, step_p + 1, step_p)
        q = tl.where(q >= Q, q - Q, q)
        b += tl.where(p >= P, step_b + 1, step_b)
        p = tl.where(p >= P, p - P, p)

    rows = row_of_part(part=split, groups=products, g=product, F=F, f=f)
    partials = accumulator.to(partials_ptr.dtype.element_ty)
    tl.store(partials_ptr + rows[:, None] * columns + n[None, :], partials, mask=valid_f[:, None] & valid_n[None, :])
    if bias_partials_ptr is not None:
        store_bias_part(
            bias_partials_ptr=bias_partials_ptr,
            bias=bias,
            part=split * tiles_n + tile_n,
            groups=products,
            g=product,
            F=F,
            f=f,
        )
