"""The partial sums of wgrad (split-K): what both its kernels use, and the kernel that adds them up in a fixed order."""

import triton
import triton.language as tl

SIZES_AND_STRIDES = ["filters", "C", "R", "S", "stride_f", "stride_c", "stride_r", "stride_s", "splits", "bias_splits"]


@triton.jit
def row_of_part(part, groups, g, F, f):
    """Return the row of the partial sums for filter f of group g in part number `part`: they lie as (part, group, F).

    If the weight varies, `groups` and `g` count all products: those of each group, and each sample or location.
    """
    return (part * groups + g) * F + f


@triton.jit
def add_in_turn(bias, turn, y, tile_n, tiles_n):
    """bias[f] + sum over k of y[k,f] if `turn` is `tile_n`, or else bias[f]. Also return whose turn is next.

    `y` (BLOCK_K, BLOCK_M) has the features of one step. The tiles_n programs that read the same features take turns,
    one in each step; this one is number `tile_n`. So each feature is summed once, and the programs share the work.
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
    """sum over part < parts of partials[part, index], in float32; 0 for index >= count.

    `count` is the number of elements of a part. Eight loads are in flight at a time.
    """
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
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """weight[f,c,r,s] = sum over split < splits of partials[split,f,r,s,c]

    and bias[f] = sum over part < bias_splits of bias_partials[part,f]; both in float32, in a fixed order, rounded once.

    f counts the `filters` of all groups, samples and locations, and c counts the C channels of one group. `weight_ptr`
    or `bias_ptr` is None if that sum is not wanted. If IN_ORDER, the weight is stored as its partial sums lie: as
    (f, r, s, c) without gaps. Otherwise it is stored by its strides. The bias is stored without gaps.

    If DEPENDENT_LAUNCH, this is a programmatic dependent launch (PDL). Its programs may start as soon as all programs
    of wgrad have started, and so before the partial sums are in memory. `gdc_wait` returns when all of wgrad has ended
    and its stores are visible.

    - No partial sum is loaded before `gdc_wait`, because it may not be there yet.
    - Nothing is stored before `gdc_wait`. The allocator hands memory out again in the order of the stream. So a store
      is right only when all earlier kernels have ended: wgrad, and those before it, for which wgrad has waited.
    - Every program calls `gdc_wait`, even one that stores nothing. The next kernel of the stream may load what wgrad
      has stored, and may store to the memory of the partial sums. An ordinary launch waits for every program of this
      kernel, and so for wgrad. A dependent launch starts no sooner, because `gdc_launch_dependents` is not called here.
    - This kernel can not keep programs of wgrad from starting, because all of these have started before.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    filters = filters.to(tl.int64)
    if DEPENDENT_LAUNCH:
        tl.extra.cuda.gdc_wait()
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
        # There are few filters, so most programs have no bias to sum.
        parts = tl.where(tl.program_id(0) * BLOCK < filters, bias_splits, 0)
        bias = sum_of_parts(partials_ptr=bias_partials_ptr, index=index, count=filters, parts=parts)
        tl.store(bias_ptr + index, bias.to(bias_ptr.dtype.element_ty), mask=index < filters)
