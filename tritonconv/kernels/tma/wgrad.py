"""wgrad in whole blocks of positions: rows of the product are filters, columns the channels of one tap.

The pixels that the positions see with one tap are a sub-image: every stride-th pixel of each axis. If a program builds
its descriptor, that ends with x, or with the pixel that the last position sees. So both the image and the features are
zero where a block overhangs. A descriptor that the host makes is shared by all taps, and ends with x. Then no block
overhangs.

A step takes a block of positions from both the image and the features. The features are the left operand of the
product. Only a matrix stays in shared memory as a left operand. So a block of the features is a line: along a row,
along the images, or, if it has whole rows, along all positions.
"""

import triton
import triton.language as tl

from tritonconv.kernels.index import INTEGERS, raster
from tritonconv.kernels.partial_sums import add_in_turn, row_of_part, store_bias_part
from tritonconv.kernels.tma.index import block_of, blocks_of, in_subimage


@triton.jit(do_not_specialize=[*INTEGERS, "splits"])
def wgrad_tma_kernel(
    image,
    features,
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
    PRECISION: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """partials[split,f,r,s,c] = sum over the split's b,p,q of y[b,f,p,q] * x[b,c,h,w]

    with h = p*stride_h + r*dilation_h - pad_h and w = q*stride_w + s*dilation_w - pad_w; x is zero outside the image.
    Unless `bias_partials_ptr` is None, also bias_partials[part,f] = sum over the part's b,p,q of y[b,f,p,q].

    The formulas hold for each group: c and f count its C channels and F filters. `splits` programs share a reduction;
    each sums up a run of consecutive blocks of positions. The partial sums lie as (split, group, F, R, S, C) without
    gaps.

    The partial sums of the bias lie as (part, group, F) without gaps. There is a part for each split and each of the
    tiles_n columns of blocks: part = split*tiles_n + tile_n. The programs that share the filters and the split take
    turns in summing y (`add_in_turn`).

    `image` and `features` are TMA descriptors that the host has made of x and y, with the channels of all groups. Then
    `x_ptr` and `y_ptr` are None. Otherwise these are pointers, and the descriptors are None: each program builds its
    own, of the sub-image of its tap and the channels of its group. With a stride, the host's `image` has all
    sub-images: the rows that the stride skips are an axis, and the columns count as further channels. The stride
    divides H and W then.

    Channels are adjacent in x, and filters in y. C, and the strides of x over b, h and w, are passed divided by
    VECTOR_X. F, and the strides of y over b, p and q, are passed divided by VECTOR_Y.

    A block of BLOCK_K positions has BLOCK_B images, BLOCK_H rows and BLOCK_W columns. It is one position of BLOCK_K
    images, BLOCK_K positions of one row, or whole rows. For whole rows, the positions of y lie at equal distances.

    If DEPENDENT_LAUNCH, `sum_partials_kernel` may start as soon as all programs of this kernel have started.
    `multiply_sum_blocks` and `raster` explain the other constants.
    """
    if DEPENDENT_LAUNCH:
        # Called first, where it costs nothing. After the main loop it would change the registers of the loop.
        tl.extra.cuda.gdc_launch_dependents()
    C *= VECTOR_X
    F *= VECTOR_Y
    stride_xh = stride_xh.to(tl.int64) * VECTOR_X
    stride_xw = stride_xw.to(tl.int64) * VECTOR_X

    tiles_m = tl.cdiv(F, BLOCK_M)
    tiles_c = tl.cdiv(C, BLOCK_N)
    tiles_n = R * S * tiles_c
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    groups = tl.num_programs(0) // (tiles * splits)
    split = pid // (tiles * groups)
    g = (pid // tiles % groups).to(tl.int64)
    tile_m, tile_n = raster(pid=pid % tiles, tiles_m=tiles_m, tiles_n=tiles_n, GROUP_M=GROUP_M)
    tap = tile_n // tiles_c
    first_f = tile_m * BLOCK_M
    first_c = tile_n % tiles_c * BLOCK_N

    start_h, at_h = in_subimage(tap // S * dilation_h - pad_h, stride_h)
    start_w, at_w = in_subimage(tap % S * dilation_w - pad_w, stride_w)
    WHOLE_ROWS: tl.constexpr = BLOCK_K > BLOCK_B and BLOCK_K > BLOCK_W
    # The host describes either one sub-image or all of them: then the rows that the stride skips are a fifth axis.
    LOADS_FOLDED: tl.constexpr = False if image is None else len(image.block_shape) == 5
    if image is None:
        # The rows and columns of the sub-image. It ends with x, or with the pixel that the last position sees.
        extent_h = tl.minimum(tl.cdiv(H - start_h, stride_h), P + at_h)
        extent_w = tl.minimum(tl.cdiv(W - start_w, stride_w), Q + at_w)
        wide_xb = stride_xb.to(tl.int64) * VECTOR_X
        wide_yb = stride_yb.to(tl.int64) * VECTOR_Y
        wide_yp = stride_yp.to(tl.int64) * VECTOR_Y
        wide_yq = stride_yq.to(tl.int64) * VECTOR_Y
        first_x = x_ptr + g * C + start_h * stride_xh + start_w * stride_xw
        # No axis of a descriptor may be empty.
        shape_h = tl.maximum(extent_h, 1)
        shape_w = tl.maximum(extent_w, 1)
        if WHOLE_ROWS:
            image = tl.make_tensor_descriptor(
                first_x,
                [B, shape_h, shape_w, C],
                [wide_xb, stride_h * stride_xh, stride_w * stride_xw, 1],
                [BLOCK_B, BLOCK_H, BLOCK_W, BLOCK_N],
            )
            features = tl.make_tensor_descriptor(y_ptr + g * F, [B * P * Q, F], [wide_yq, 1], [BLOCK_K, BLOCK_M])
        elif BLOCK_B > 1:
            image = tl.make_tensor_descriptor(
                first_x,
                [shape_h, shape_w, B, C],
                [stride_h * stride_xh, stride_w * stride_xw, wide_xb, 1],
                [1, 1, BLOCK_B, BLOCK_N],
            )
            features = tl.make_tensor_descriptor(
                y_ptr + g * F, [P, Q, B, F], [wide_yp, wide_yq, wide_yb, 1], [1, 1, BLOCK_B, BLOCK_M]
            )
        else:
            image = tl.make_tensor_descriptor(
                first_x,
                [B, shape_h, shape_w, C],
                [wide_xb, stride_h * stride_xh, stride_w * stride_xw, 1],
                [1, 1, BLOCK_W, BLOCK_N],
            )
            features = tl.make_tensor_descriptor(
                y_ptr + g * F, [B, P, Q, F], [wide_yb, wide_yp, wide_yq, 1], [1, 1, BLOCK_W, BLOCK_M]
            )
        # For a tap that sees nothing but padding, channels beyond the last are copied: these are zeros.
        c_copied = tl.where((extent_h > 0) & (extent_w > 0), first_c, C)
        f_copied = first_f
    else:
        # The host's descriptors have all groups, one behind the other. Channels beyond those of the group are copied,
        # too, and their products are not stored.
        c_copied = (g * C).to(tl.int32) + first_c
        f_copied = (g * F).to(tl.int32) + first_f
        if LOADS_FOLDED:
            c_copied += start_w * stride_xw.to(tl.int32)
    steps = blocks_of(images=B, extent=(P, Q), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
    steps_per_split = tl.cdiv(steps, splits)
    first_step = split * steps_per_split
    b, p, q = block_of(tile=first_step, extent=(P, Q), BLOCK_SHAPE=(BLOCK_B, BLOCK_H, BLOCK_W))
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    bias = tl.zeros((BLOCK_M,), dtype=tl.float32)
    turn = 0
    for _ in tl.range(tl.minimum(steps_per_split, steps - first_step)):
        if BLOCK_B > 1 and not WHOLE_ROWS:
            if LOADS_FOLDED:
                block = image.load([p + at_h, start_h, q + at_w, b, c_copied])
            else:
                block = image.load([p + at_h, q + at_w, b, c_copied])
        elif LOADS_FOLDED:
            block = image.load([b, p + at_h, start_h, q + at_w, c_copied])
        else:
            block = image.load([b, p + at_h, q + at_w, c_copied])
        x = block.reshape(BLOCK_K, BLOCK_N)
        if WHOLE_ROWS:
            y = features.load([(b * P + p) * Q + q, f_copied])
        elif BLOCK_B > 1:
            y = features.load([p, q, b, f_copied]).reshape(BLOCK_K, BLOCK_M)
        else:
            y = features.load([b, p, q, f_copied]).reshape(BLOCK_K, BLOCK_M)
        accumulator = tl.dot(y.to(DOT_DTYPE).T, x.to(DOT_DTYPE), accumulator, input_precision=PRECISION)
        if bias_partials_ptr is not None:
            bias, turn = add_in_turn(bias=bias, turn=turn, y=y, tile_n=tile_n, tiles_n=tiles_n)
        q += BLOCK_W
        p = tl.where(q >= Q, p + BLOCK_H, p)
        q = tl.where(q >= Q, 0, q)
        b = tl.where(p >= P, b + BLOCK_B, b)
        p = tl.where(p >= P, 0, p)

    f = first_f + tl.arange(0, BLOCK_M)
    c = first_c + tl.arange(0, BLOCK_N)
    rows = row_of_part(part=split, groups=groups, g=g, F=F, f=f)
    places = rows[:, None] * (R * S * C) + (tap * C + c)[None, :]
    partials = accumulator.to(partials_ptr.dtype.element_ty)
    tl.store(partials_ptr + places, partials, mask=(f < F)[:, None] & (c < C)[None, :])
    if bias_partials_ptr is not None:
        store_bias_part(
            bias_partials_ptr=bias_partials_ptr,
            bias=bias,
            part=split * tiles_n + tile_n,
            groups=groups,
            g=g,
            F=F,
            f=f,
        )
