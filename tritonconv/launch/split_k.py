"""Split-K, where several programs share a reduction: memory for partial sums, and the launch that adds them up."""

from dataclasses import replace

import torch
from torch import Tensor

from tritonconv.fallback_warning import warn_once
from tritonconv.geometry import ConvGeometry, ceildiv
from tritonconv.launch import layout
from tritonconv.launch.layout import is_weight_channels_last
from tritonconv.launch.plan import Launch
from tritonconv.tiling.tile import Tile

# Elements that each program of the second kernel of wgrad adds up.
SUM_BLOCK = 512


def workspace(
    tile: Tile, geometry: ConvGeometry, weight: Tensor, bias: Tensor | None
) -> tuple[Tile, Tensor, Tensor | None]:
    """Return the tile, and what `partial_sums` returns for it: memory for the partial sums.

    `weight` and `bias` are the results of wgrad; `bias` may be None. If memory does not suffice, SPLIT_K is halved
    until it does, with a warning. Raise torch.OutOfMemoryError if memory does not suffice for a SPLIT_K of 1.
    """
    wanted = tile.SPLIT_K
    while True:
        try:
            sums = partial_sums(tile, geometry, weight, bias)
            break
        except torch.OutOfMemoryError:
            if tile.SPLIT_K == 1:
                raise
        tile = replace(tile, SPLIT_K=tile.SPLIT_K // 2)
    if wanted != tile.SPLIT_K:
        message = f"wgrad splits its reduction into {tile.SPLIT_K} parts instead of {wanted}, for lack of memory"
        warn_once(message, "workspace")
    return tile, *sums


def partial_sums(
    tile: Tile, geometry: ConvGeometry, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return float32 memory for the partial sums of the weight, and of the bias, or None if `bias` is None.

    `weight` and `bias` are the results of wgrad. The memory for the weight has SPLIT_K times the elements of `weight`;
    kernels write them as (SPLIT_K, ..., F, R, S, C/G). If SPLIT_K is 1 and `weight` is channels last, this returns
    `weight` itself, which the kernel then writes directly. The kernel that gathers pixels does so only for a weight
    that varies, which saves variants to compile. The programs of a row of blocks take turns in summing the bias. So the
    bias has one part for each split and each column of blocks.
    """
    direct = tile.SPLIT_K == 1 and is_weight_channels_last(weight) and bool(tile.uses_tma or geometry.varies)
    partials = weight if direct else layout.allocate((tile.SPLIT_K, *weight.shape), weight, False, torch.float32)
    if bias is None:
        return partials, None
    parts = tile.SPLIT_K * tile.columns(geometry, "wgrad")
    return partials, layout.allocate((parts, *bias.shape), weight, False, torch.float32)


def sum_of_partials(
    geometry: ConvGeometry,
    weight: Tensor,
    bias: Tensor | None,
    partials: Tensor,
    bias_partials: Tensor | None,
    tile: Tile,
) -> Launch:
    """Return the second launch of wgrad, which adds up the partial sums of the weight and the bias.

    `weight` and `bias` are the results. If `partials` is `weight`, the first launch wrote it, and only the bias is
    added up. If `bias` is None, only the weight is. If the weight varies, the filters of all samples and locations lie
    one behind the other.
    """
    from tritonconv.kernels.partial_sums import sum_partials_kernel

    there = partials is weight
    filters = weight.shape[:-3].numel()
    stride_f, stride_c, stride_r, stride_s = weight.stride()[-4:]
    add = dict(
        partials_ptr=None if there else partials,
        bias_partials_ptr=bias_partials,
        weight_ptr=None if there else weight,
        bias_ptr=bias,
        filters=filters,
        C=geometry.C // geometry.G,
        R=geometry.R,
        S=geometry.S,
        stride_f=stride_f,
        stride_c=stride_c,
        stride_r=stride_r,
        stride_s=stride_s,
        splits=tile.SPLIT_K,
        bias_splits=tile.SPLIT_K * tile.columns(geometry, "wgrad"),
        IN_ORDER=is_weight_channels_last(weight),
        BLOCK=SUM_BLOCK,
        DEPENDENT_LAUNCH=False,
    )
    return Launch(sum_partials_kernel, ceildiv(filters if there else weight.numel(), SUM_BLOCK), add)


def with_dependent_launch(multiply: Launch, add: Launch) -> list[Launch]:
    """Return the two launches of wgrad, the second as a programmatic dependent launch (PDL).

    The second kernel then starts while programs of the first still run. `sum_partials_kernel` says why that is safe.
    """
    return [
        multiply._replace(arguments=multiply.arguments | dict(DEPENDENT_LAUNCH=True)),
        add._replace(arguments=add.arguments | dict(DEPENDENT_LAUNCH=True, launch_pdl=True)),
    ]
