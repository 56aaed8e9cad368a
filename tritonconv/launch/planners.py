"""Plan a call of each operator: allocate, pick a tile, and list what to launch. Nothing is started here.

Triton is imported with the first plan, so that the package imports, and the reference runs, where it is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import mul

from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import layout
from tritonconv.launch.failed_tiles import tile_for
from tritonconv.launch.kernel_arguments import (
    addend,
    constants,
    gathering,
    integers,
    periods,
    shape,
    summary,
    tiling,
    variation,
)
from tritonconv.launch.layout import (
    adjacent,
    alignment,
    channels_first,
    dense_rows,
    evenly_spaced,
    filters_last,
    folds,
    last_in_memory,
    line,
    paired,
    weight_vector,
    whole_stores,
    wide,
)
from tritonconv.launch.plan import Asked, Copies, Launch, Plan
from tritonconv.launch.split_k import sum_of_partials, workspace
from tritonconv.tiling.tile import Tile


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
    device: Gpu,
    tile: Tile | None = None,
) -> Plan:
    """The features y (B, F, P, Q) of image x (B, C, H, W), in x's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.gather.fprop import fprop_kernel
    from tritonconv.kernels.tma.fprop import fprop_tma_kernel

    copies = Copies()
    y = layout.allocate(geometry.feature_shape, x, channels_last)
    x, align_x = vectors(copies, x, geometry.C // geometry.G)
    align_y = whole_stores(y, geometry.F // geometry.G)
    bias = bias if bias is None else copies.lay(bias, partial(addend, geometry=geometry))
    geometry, x, result = in_line(geometry, x, y)
    asked = Asked(geometry, "fprop", summary(geometry, align_x, align_y > 1, x), device)
    tile = tile or tile_for(asked)
    folded = tile.uses_tma and geometry.images_seen > 1 and folds(geometry, geometry.C, tile.BLOCK_K)
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
    if tile.uses_tma:
        kernel, more = fprop_tma_kernel, periods(geometry) | tiling(geometry, tile)
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
    device: Gpu,
    tile: Tile | None = None,
) -> Plan:
    """The image x (B, C, H, W) that features y (B, F, P, Q) spread over, in y's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.gather.dgrad import dgrad_kernel
    from tritonconv.kernels.tma.dgrad import dgrad_tma_kernel

    copies = Copies()
    x = layout.allocate(geometry.image_shape, y, channels_last)
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
    if tile.uses_tma:
        # Tensor cores read 16 bits either way round, and 32 bits only with what they sum over adjacent.
        transposed = y.element_size() == 2
        kernel, more = dgrad_tma_kernel, tiling(geometry, tile) | dict(TRANSPOSED=transposed)
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
    device: Gpu,
    tile: Tile | None = None,
) -> Plan:
    """The weight (F, C/G, R, S), or one that varies, by which x (B, C, H, W) and y (B, F, P, Q) correlate, in their
    dtype; with the bias (F,), the sum of y, if that is wanted and the weight does not vary.

    The workspace holds SPLIT_K weights, and biases, in float32; fewer, with a warning, where memory does not suffice.
    Raises torch.OutOfMemoryError if it does not suffice for one. None is needed for a weight that is not split, if it
    lies as it is computed.
    """
    from tritonconv.kernels.gather.wgrad import wgrad_kernel
    from tritonconv.kernels.tma.wgrad import wgrad_tma_kernel

    weight = layout.allocate(geometry.weight_shape, x, last_in_memory("wgrad", geometry, channels_last))
    bias = layout.allocate((geometry.F,), x, False) if with_bias else None
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
    if tile.uses_tma:
        kernel, more = wgrad_tma_kernel, shape(tile)
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
