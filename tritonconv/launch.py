"""Allocate, pick a tile, launch: the only place that starts kernels.

A `Plan` is everything that will be done, as a value: tests look at it, and `tritonconv.warmup` compiles from it without
running it. Triton is imported with the first plan, so that the package imports, and the reference runs, where it is
missing.
"""

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.layout import (
    adjacent,
    alignment,
    allocate,
    channels_first,
    dense_rows,
    evenly_spaced,
    filters_last,
    folds,
    in_order,
    last_in_memory,
    line,
    paired,
    weight_vector,
    whole_stores,
    wide,
)
from tritonconv.notices import warn_once
from tritonconv.operands import addend, constants, gathering, integers, periods, shape, summary, tiling, variation
from tritonconv.tile import Device, Operands, Tile
from tritonconv.tiles import least, pick

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


class Asked(NamedTuple):
    """What `pick` chooses a tile for."""

    geometry: ConvGeometry
    operator: Operator
    operands: Operands
    device: Device


class Plan(NamedTuple):
    """The results, not computed yet, and what computes them, with which tile, for what it is chosen; the copies of
    operands that it computes with, and the memory for what is in between. `compiled` has what Triton compiled for each
    launch, once they have been started; the interpreter compiles nothing.
    """

    results: tuple[Tensor, ...]
    launches: list[Launch]
    tile: Tile
    asked: Asked
    copies: "Copies"
    workspaces: tuple[Tensor, ...]
    compiled: list[Any]


class Copies(list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]):
    """Copies of operands, each with what it is a copy of and how it is made."""

    def lay(self, operand: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
        """The operand as `how` lays it out: where it is, or as a copy of it."""
        lying = how(operand)
        if lying.data_ptr() != operand.data_ptr():
            self.append((lying, operand, how))
        return lying


# Neither the first start of a kernel, which compiles and loads it, nor the interpreter is safe in several threads.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, on the device of its results, one thread at a time."""
    with _starting, torch.cuda.device_of(plan.results[0]):
        if plan.tile.tiled:
            # Triton keeps the allocator in a context variable: in a copy, so that the caller's stays.
            copy_context().run(start_with_scratch, plan)
        else:
            start(plan)
    return plan.results


def start(plan: Plan) -> None:
    plan.compiled[:] = [kernel[(programs,)](**arguments) for kernel, programs, arguments in plan.launches]


def start_with_scratch(plan: Plan) -> None:
    """Start kernels whose programs describe tensors to the hardware, in memory that Triton asks for."""
    import triton

    device = plan.results[0].device
    triton.set_allocator(lambda size, *_: torch.empty(size, dtype=torch.int8, device=device))
    start(plan)


def vectors(copies: Copies, side: Tensor, channels: int) -> tuple[Tensor, int]:
    """The side, or a copy of it, of which most can be loaded at once, and how many channels that is."""
    side = copies.lay(side, partial(adjacent, channels=channels))
    return side, alignment(side, channels)


def in_line(geometry: ConvGeometry, x: Tensor, y: Tensor) -> tuple[ConvGeometry, Tensor, Tensor]:
    """The same product over one line of pixels, if it is a plain matrix product, and memory allows.

    An empty batch has no such line: kernels divide by the pixels of an image.
    """
    if geometry.pointwise and geometry.B > 0:
        line_x, line_y = line(x), line(y)
        if line_x is not None and line_y is not None:
            return geometry.in_line(), line_x, line_y
    return geometry, x, y


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
    from tritonconv.kernels.fprop_tiled import fprop_tiled_kernel

    copies = Copies()
    y = allocate(geometry.feature_shape, x, channels_last)
    x, align_x = vectors(copies, x, geometry.C // geometry.G)
    align_y = whole_stores(y, geometry.F // geometry.G)
    bias = bias if bias is None else copies.lay(bias, partial(addend, geometry=geometry))
    geometry, x, result = in_line(geometry, x, y)
    asked = Asked(geometry, "fprop", summary(geometry, align_x, align_y > 1, x), device)
    tile = tile or tile_for(asked)
    folded = tile.tiled and geometry.images_seen > 1 and folds(geometry, geometry.C, tile.BLOCK_K)
    if folded:  # whatever else x is a part of, so that its sums are added up in the same order
        x = copies.lay(x, dense_rows)
    arguments = dict(
        x_ptr=x,
        weight_ptr=copies.lay(weight, filters_last),
        bias_ptr=bias,
        y_ptr=result,
        **integers(geometry, x, result, align_x, align_y),
        WIDE=wide(result),
        **constants(x, tile),
    )
    if tile.tiled:
        kernel, more = fprop_tiled_kernel, periods(geometry) | tiling(geometry, tile)
        more |= dict(ONE_IMAGE=geometry.images_seen == 1, FOLDED=folded)
    else:
        kernel, more = fprop_kernel, gathering(geometry, x, align_x, bias, result.shape, tile)
    programs = tile.programs(geometry, "fprop", x.element_size(), device)
    return plan((y,), tile, asked, copies, (), Launch(kernel, programs, arguments | more))


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
    from tritonconv.kernels.dgrad_tiled import dgrad_tiled_kernel

    copies = Copies()
    x = allocate(geometry.image_shape, y, channels_last)
    y, align_y = vectors(copies, y, geometry.F // geometry.G)
    align_x = whole_stores(x, geometry.C // geometry.G)
    bias = bias if bias is None else copies.lay(bias, partial(addend, geometry=geometry))
    geometry, result, y = in_line(geometry, x, y)
    asked = Asked(geometry, "dgrad", summary(geometry, align_y, align_x > 1, y), device)
    tile = tile or tile_for(asked)
    arguments = dict(
        y_ptr=y,
        bias_ptr=bias,
        x_ptr=result,
        **integers(geometry, result, y, align_x, align_y),
        **periods(geometry),
        WIDE=wide(result),
        **constants(y, tile),
    )
    if tile.tiled:
        # Tensor cores read 16 bits either way round, and 32 bits only with what they sum over adjacent.
        transposed = y.element_size() == 2
        kernel, more = dgrad_tiled_kernel, tiling(geometry, tile) | dict(TRANSPOSED=transposed)
        folded = geometry.phases > 1 and align_x > 1 and folds(geometry, geometry.C, tile.BLOCK_N)
        more |= dict(STRIDED=geometry.phases > 1, FOLDED=folded)
        channels_before = partial(channels_first, groups=geometry.G, multiple=tile.BLOCK_K)
        lying = copies.lay(weight, filters_last if transposed else channels_before)
    else:
        kernel, more = dgrad_kernel, gathering(geometry, y, align_y, bias, result.shape, tile)
        more |= dict(ALIGN_WEIGHT=weight_vector(weight) if geometry.varies else 1)
        lying = copies.lay(weight, filters_last if geometry.varies else partial(channels_first, groups=geometry.G))
    arguments |= more | dict(weight_ptr=lying)
    programs = tile.programs(geometry, "dgrad", y.element_size(), device)
    return plan((x,), tile, asked, copies, (), Launch(kernel, programs, arguments))


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
    Raises torch.OutOfMemoryError if it does not suffice for one. None is needed for a weight that is not split, if it
    lies as it is computed.
    """
    from tritonconv.kernels.wgrad import wgrad_kernel
    from tritonconv.kernels.wgrad_tiled import wgrad_tiled_kernel

    weight = allocate(geometry.weight_shape, x, last_in_memory("wgrad", geometry, channels_last))
    bias = allocate((geometry.F,), x, False) if with_bias else None
    copies = Copies()
    x, align_x = vectors(copies, x, geometry.C // geometry.G)
    y, align_y = vectors(copies, y, geometry.F // geometry.G)
    align_x, align_y = paired(align_x, align_y, 16 // x.element_size())
    geometry, x, y = in_line(geometry, x, y)
    operands = summary(geometry, min(align_x, align_y), True, x, y)
    if not evenly_spaced(y) or geometry.gemm("wgrad").K >= 2**31:  # so whole rows count positions
        operands = replace(operands, blocks=False)
    asked = Asked(geometry, "wgrad", operands, device)
    tile = tile or tile_for(asked)
    tile, partials, bias_partials = workspace(tile, geometry, weight, bias)
    multiply = dict(
        x_ptr=x,
        y_ptr=y,
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        **integers(geometry, x, y, align_x, align_y),
        splits=tile.SPLIT_K,
        **constants(x, tile),
    )
    if tile.tiled:
        kernel, more = wgrad_tiled_kernel, shape(tile)
    else:
        # How far it is from where the first window begins to where one beyond the last does.
        steps = (x.stride(0), geometry.stride_h * x.stride(2), geometry.stride_w * x.stride(3))
        far = sum(map(mul, geometry.pixels("wgrad"), steps)) >= 2**31
        # Of a location only images are counted, and fewer registers suffice where that is done in 64 bits.
        kernel, more = wgrad_kernel, dict(WIDE=far or wide(y) or geometry.per_location, **variation(geometry))
    launches = [Launch(kernel, tile.programs(geometry, "wgrad", x.element_size(), device), multiply | more)]
    if partials is not weight or bias is not None:
        launches.append(sum_of_partials(geometry, weight, bias, partials, bias_partials, tile))
    results = (weight,) if bias is None else (weight, bias)
    workspaces = tuple(sums for sums in (partials, bias_partials) if sums is not None and sums is not weight)
    return plan(results, tile, asked, copies, workspaces, *launches)


def sum_of_partials(
    geometry: ConvGeometry,
    weight: Tensor,
    bias: Tensor | None,
    partials: Tensor,
    bias_partials: Tensor | None,
    tile: Tile,
) -> Launch:
    """The second step of wgrad, for the bias alone where the weight is there already. The filters of all samples, where
    each has its own, lie one behind the other.
    """
    from tritonconv.kernels.wgrad import sum_partials_kernel

    there = partials is weight
    taps = geometry.C // geometry.G * geometry.R * geometry.S
    filters = weight.numel() // taps
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
        IN_ORDER=in_order(weight),
        BLOCK=SUM_BLOCK,
    )
    return Launch(sum_partials_kernel, ceildiv(filters if there else weight.numel(), SUM_BLOCK), add)


PLANS: dict[Operator, Callable[..., Plan]] = {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}


def plan(
    results: tuple[Tensor, ...],
    tile: Tile,
    asked: Asked,
    copies: Copies,
    workspaces: tuple[Tensor, ...],
    *launches: Launch,
) -> Plan:
    return Plan(results, [each for each in launches if each.programs > 0], tile, asked, copies, workspaces, [])


# The tiles that were picked and found to be too large, with a SPLIT_K of 1.
too_large: set[tuple[Operator, Device, Tile]] = set()


# Where blocks of pixels turned out not to be copied: by which operator, on which device.
gathered_only: set[tuple[Operator, Device]] = set()


def tile_for(asked: Asked) -> Tile:
    """The tile that is picked, or in the place of one that is too large the least."""
    if gathered_only and (asked.operator, asked.device) in gathered_only:
        asked = asked._replace(operands=replace(asked.operands, blocks=False))
    tile = pick(*asked)
    if too_large and (asked.operator, asked.device, replace(tile, SPLIT_K=1)) in too_large:
        return replace(least(asked.operator, asked.operands.itemsize, asked.operands.varies), SPLIT_K=tile.SPLIT_K)
    return tile


def workspace(
    tile: Tile, geometry: ConvGeometry, weight: Tensor, bias: Tensor | None
) -> tuple[Tile, Tensor, Tensor | None]:
    """Room for the partial sums of `tile`, or of one with half its SPLIT_K, and so on, until memory suffices."""
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
        message = f"wgrad splits its sum into {tile.SPLIT_K} parts, not {wanted}, for lack of memory"
        warn_once(message, "workspace")
    return tile, *sums


def partial_sums(
    tile: Tile, geometry: ConvGeometry, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Room for them, and for those of a bias from each column of blocks. The weight itself, if it takes one sum and
    lies as that is computed, with its channels last; but not where pixels are gathered, in variants enough as it is.
    """
    direct = tile.SPLIT_K == 1 and in_order(weight) and bool(tile.tiled or geometry.varies)
    partials = weight if direct else allocate((tile.SPLIT_K, *weight.shape), weight, False, torch.float32)
    if bias is None:
        return partials, None
    parts = tile.SPLIT_K * tile.columns(geometry, "wgrad")
    return partials, allocate((parts, *bias.shape), weight, False, torch.float32)
