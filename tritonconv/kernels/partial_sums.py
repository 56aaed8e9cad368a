"""The kernel that adds up wgrad's partial sums, always in the same order."""

import triton
import triton.language as tl

SIZES_AND_STRIDES = ["filters", "C", "R", "S", "stride_f", "stride_c", "stride_r", "stride_s", "splits", "bias_splits"]


@triton.jit
def sum_of_parts(partials_ptr, index, count, parts, BLOCK: tl.constexpr):
    """The sum over part < parts of partials[part, index], for index < count: eight loads at a time are on their way."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, parts, 8):
        part = first + tl.arange(0, 8)
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
        total = sum_of_parts(partials_ptr, index, count, splits, BLOCK)
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
        bias = sum_of_parts(bias_partials_ptr, index, filters, parts, BLOCK)
        tl.store(bias_ptr + index, bias.to(bias_ptr.dtype.element_ty), mask=index < filters)
