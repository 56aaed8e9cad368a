"""The partial sums of wgrad: what its two kernels share, and the kernel that adds them up in a fixed order."""

import triton
import triton.language as tl

SIZES_AND_STRIDES = ["filters", "C", "R", "S", "stride_f", "stride_c", "stride_r", "stride_s", "splits", "bias_splits"]


@triton.jit
def row_of_part(part, groups, g, F, f):
    """The row of partial sums that belongs to filter f of group g in this part."""
    return (part * groups + g) * F + f


@triton.jit
def add_in_turn(bias, turn, y, tile_n, tiles_n):
    """bias[f] + sum over k of y[k,f], or bias as it is if `turn` is not `tile_n`; and whose turn comes next.

    The programs that read the same features, one for each of tiles_n, take turns in summing them.
    """
    if turn == tile_n:
        bias += tl.sum(y.to(tl.float32), 0)
    turn = tl.where(turn == tiles_n - 1, 0, turn + 1)
    return bias, turn


@triton.jit
def store_bias_part(bias_partials_ptr, bias, part, groups, g, F, f):
    """bias_partials[part,g,f] = bias[f], for f < F."""
    rows = row_of_part(part=part, groups=groups, g=g, F=F, f=f)
    tl.store(bias_partials_ptr + rows, bias, mask=f < F)


@triton.jit
def sum_of_parts(partials_ptr, index, count, parts):
    """The sum over part < parts of partials[part, index], for index < count: eight loads at a time are on their way."""
    total = tl.zeros(index.shape, dtype=tl.float32)
    for first_part in range(0, parts, 8):
        part = first_part + tl.arange(0, 8)
        mask = (part < parts)[:, None] & (index < count)[None, :]
        total += tl.sum(tl.load(partials_ptr + part[:, None] * count + index[None, :], mask=mask, other=0.0), 0)
    return total


@triton.jit(do_not_specialize=SIZES_AND_STRIDES)
def sum_partials_kernel(
    partials_ptr,
    bias_partials_ptr,
    weight_ptr,
    bias_ptr,
    filters,
    C,
    R,
    S,
    stride_f,
    stride_c,
    stride_r,
    stride_s,
    splits,
    bias_splits,
    IN_ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """weight[f,c,r,s] = sum over split of partials[split,f,r,s,c]; bias[f] of bias_partials[split,f]; rounded once.

    Either may be None, where it is not wanted. IN_ORDER says that the weight lies as (f, r, s, c) without gaps, too.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    filters = filters.to(tl.int64)
    if weight_ptr is not None:
        count = filters * C * R * S
        total = sum_of_parts(partials_ptr=partials_ptr, index=index, count=count, parts=splits)
        offsets = index
        if not IN_ORDER:
            c = index % C
            s = index // C % S
            r = index // (S * C) % R
            f = index // (R * S * C)
            offsets = f * stride_f + c * stride_c + r * stride_r + s * stride_s
        tl.store(weight_ptr + offsets, total.to(weight_ptr.dtype.element_ty), mask=index < count)
    if bias_ptr is not None:
        # There are few filters: most programs have none of them to sum.
        parts = tl.where(tl.program_id(0) * BLOCK < filters, bias_splits, 0)
        bias = sum_of_parts(partials_ptr=bias_partials_ptr, index=index, count=filters, parts=parts)
        tl.store(bias_ptr + index, bias.to(bias_ptr.dtype.element_ty), mask=index < filters)
