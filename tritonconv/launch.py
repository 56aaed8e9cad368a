"""Allocate, pick a tile, launch: the only place that starts kernels.

A `Plan` is everything that will be done, as a value: tests look at it, and `tritonconv.warmup` compiles from it without
running it. Triton is imported with the first plan, so that the package imports, and the reference runs, where it is
missing.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.layout import (
    adjacent,
    allocate,
    channels_first,
    filters_last,
    last_in_memory,
    weight_vector,
    whole_stores,
    wide,
)
from tritonconv.notices import warn_once
from tritonconv.operands import bias_of, constants, integers, summary, variation, walk
from tritonconv.tiles import Device, Operands, Tile, least, pick

# Elements that one program of the second step of wgrad sums up.
SUM_BLOCK = 512


class Launch(NamedTuple):
    """One start of a kernel."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]

    @property
    def variant(self) -> tuple[Any, ...]:
        """What Triton compiles the kernel for: constants, types and alignments of pointers, and widths of integers."""
        return self.kernel.__name__, *((name, compiled_for(name, value)) for name, value in self.arguments.items())


def compiled_for(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), name == "bias_ptr" or value.data_ptr() % 16 == 0
    if value is None or name.startswith("num_") or (name.isupper() and len(name) > 1):
        return value
    return "i32" if value < 2**31 else "i64"


class Plan(NamedTuple):
    """The results, not computed yet, and what computes them, with which tile."""

    results: tuple[Tensor, ...]
    launches: list[Launch]
    tile: Tile


# Neither the first start of a kernel, which compiles and loads it, nor the interpreter is safe in several threads.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, on the device of its results, one thread at a time."""
    with _starting, torch.cuda.device_of(plan.results[0]):
        for kernel, programs, arguments in plan.launches:
            kernel[(programs,)](**arguments)
    return plan.results


def fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The features y (B, F, P, Q) of image x (B, C, H, W), in x's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.fprop import fprop_kernel

    C, F = geometry.C // geometry.G, geometry.F // geometry.G
    y = allocate(geometry.feature_shape, x, channels_last)
    x, align_x = adjacent(x, C)
    align_y = whole_stores(y, F)
    tile = tile or tile_for(geometry, "fprop", summary(x, align_x, align_y > 1, geometry), device)
    arguments = dict(
        x_ptr=x,
        weight_ptr=filters_last(weight),
        y_ptr=y,
        **bias_of(bias, geometry.feature_shape, geometry),
        **integers(geometry, x, y, align_x, align_y),
        WIDE=wide(y),
        **walk(geometry, x, tile),
        **variation(geometry),
        **constants(x, tile),
        STAGES=stages(tile),
    )
    return plan((y,), tile, Launch(fprop_kernel, tile.blocks(geometry.launched("fprop")), arguments))


def dgrad(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The image x (B, C, H, W) that features y (B, F, P, Q) spread over, in y's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.dgrad import dgrad_kernel

    C, F = geometry.C // geometry.G, geometry.F // geometry.G
    x = allocate(geometry.image_shape, y, channels_last)
    y, align_y = adjacent(y, F)
    align_x = whole_stores(x, C)
    tile = tile or tile_for(geometry, "dgrad", summary(y, align_y, align_x > 1, geometry), device)
    arguments = dict(
        y_ptr=y,
        weight_ptr=filters_last(weight) if geometry.varies else channels_first(weight, geometry.G),
        x_ptr=x,
        **bias_of(bias, geometry.image_shape, geometry),
        **integers(geometry, x, y, align_x, align_y),
        period_h=geometry.stride_h // gcd(geometry.stride_h, geometry.dilation_h),
        period_w=geometry.stride_w // gcd(geometry.stride_w, geometry.dilation_w),
        ALIGN_WEIGHT=weight_vector(weight) if geometry.varies else 1,
        WIDE=wide(x),
        **walk(geometry, y, tile),
        **variation(geometry),
        **constants(y, tile),
        STAGES=stages(tile),
    )
    return plan((x,), tile, Launch(dgrad_kernel, tile.blocks(geometry.launched("dgrad")), arguments))


def wgrad(
    x: Tensor,
    y: Tensor,
    with_bias: bool,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The weight (F, C/G, R, S), or one that varies, by which x (B, C, H, W) and y (B, F, P, Q) correlate, in their
    dtype; with the bias (F,), the sum of y, if that is wanted and the weight does not vary.

    The workspace holds SPLIT_K weights, and biases, in float32; fewer, with a warning, where memory does not suffice.
    Raises torch.OutOfMemoryError if it does not suffice for one. A weight that varies and is not split needs none.
    """
    from tritonconv.kernels.wgrad import wgrad_kernel

    C, F, taps = geometry.C // geometry.G, geometry.F // geometry.G, geometry.R * geometry.S
    weight = allocate(geometry.weight_shape, x, last_in_memory("wgrad", geometry, channels_last))
    bias = allocate((geometry.F,), x, False) if with_bias else None
    x, align_x = adjacent(x, C)
    y, align_y = adjacent(y, F)
    tile = tile or tile_for(geometry, "wgrad", summary(x, min(align_x, align_y), True, geometry), device)
    tiles_n = ceildiv(taps * C, tile.BLOCK_N)
    if geometry.varies and tile.SPLIT_K == 1:
        partials, bias_partials = weight, None
    else:
        tile, partials, bias_partials = workspace(tile, weight, bias, tiles_n)
    # How far from where a window may begin to where the last one does, in elements of x.
    reach = sum(
        n * stride * step
        for n, stride, step in zip(
            (geometry.B, geometry.P, geometry.Q),
            (x.stride(0), x.stride(2), x.stride(3)),
            (1, geometry.stride_h, geometry.stride_w),
            strict=True,
        )
    )
    multiply = dict(
        x_ptr=x,
        y_ptr=y,
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        **integers(geometry, x, y, align_x, align_y),
        splits=tile.SPLIT_K,
        WIDE=reach >= 2**31 or wide(y),
        **variation(geometry),
        **constants(x, tile),
    )
    launches = [Launch(wgrad_kernel, tile.blocks(geometry.launched("wgrad")) * tile.SPLIT_K, multiply)]
    if partials is not weight:
        launches.append(sum_of_partials(geometry, weight, bias, partials, bias_partials, tile.SPLIT_K, tiles_n))
    return plan((weight,) if bias is None else (weight, bias), tile, *launches)


def sum_of_partials(
    geometry: ConvGeometry,
    weight: Tensor,
    bias: Tensor | None,
    partials: Tensor,
    bias_partials: Tensor | None,
    splits: int,
    tiles_n: int,
) -> Launch:
    """The second step of wgrad. The filters of all samples, where each has its own, lie one behind the other."""
    from tritonconv.kernels.wgrad import sum_partials_kernel

    taps = geometry.C // geometry.G * geometry.R * geometry.S
    stride_f, stride_c, stride_r, stride_s = weight.stride()[-4:]
    add = dict(
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        weight_ptr=weight,
        bias_ptr=bias,
        filters=weight.numel() // taps,
        C=geometry.C // geometry.G,
        R=geometry.R,
        S=geometry.S,
        stride_f=stride_f,
        stride_c=stride_c,
        stride_r=stride_r,
        stride_s=stride_s,
        splits=splits,
        bias_splits=splits * tiles_n,
        BLOCK=SUM_BLOCK,
    )
    return Launch(sum_partials_kernel, ceildiv(weight.numel(), SUM_BLOCK), add)


PLANS: dict[Operator, Callable[..., Plan]] = {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}


def plan(results: tuple[Tensor, ...], tile: Tile, *launches: Launch) -> Plan:
    return Plan(results, [launch for launch in launches if launch.programs > 0], tile)


# The tiles that were picked and found to be too large, with a SPLIT_K of 1.
too_large: set[tuple[Operator, Device, Tile]] = set()


def tile_for(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> Tile:
    """The tile that is picked, or in the place of one that is too large the least."""
    tile = pick(geometry, operator, operands, device)
    if too_large and (operator, device, replace(tile, SPLIT_K=1)) in too_large:
        return replace(least(operator, operands.itemsize, operands.varies), SPLIT_K=tile.SPLIT_K)
    return tile


def workspace(tile: Tile, weight: Tensor, bias: Tensor | None, tiles_n: int) -> tuple[Tile, Tensor, Tensor | None]:
    """Room for the partial sums of `tile`, or of one with half its SPLIT_K, and so on, until memory suffices."""
    wanted = tile.SPLIT_K
    while True:
        try:
            sums = partial_sums(tile.SPLIT_K, weight, bias, tiles_n)
            break
        except torch.OutOfMemoryError:
            if tile.SPLIT_K == 1:
                raise
        tile = replace(tile, SPLIT_K=tile.SPLIT_K // 2)
    if wanted != tile.SPLIT_K:
        message = f"wgrad splits its sum into {tile.SPLIT_K} parts, not {wanted}, for lack of memory"
        warn_once(message, "workspace")
    return tile, *sums


def partial_sums(splits: int, weight: Tensor, bias: Tensor | None, tiles_n: int) -> tuple[Tensor, Tensor | None]:
    partials = allocate((splits, *weight.shape), weight, False, torch.float32)
    if bias is None:
        return partials, None
    return partials, allocate((splits * tiles_n, *bias.shape), weight, False, torch.float32)


def stages(tile: Tile) -> int | None:
    """What Triton must be told of a loop without tensor cores, which it would not pipeline."""
    return tile.num_stages if tile.BLOCK_M < 16 else None
