"""Plan a call of each operator: allocate memory, choose a tile, and list the launches. Nothing is started here.

Triton is imported with the first plan. So the package can be imported, and the reference runs, where Triton is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import mul
from typing import Any, NamedTuple

from torch import Tensor

from tritonconv.call import Call
from tritonconv.geometry import LEAVES_OUT, TAKES, ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import failures, layout
from tritonconv.launch.descriptors import dgrad_descriptors, fprop_descriptors, wgrad_descriptors
from tritonconv.launch.failures import NoDependentLaunch, NoHostDescriptors
from tritonconv.launch.kernel_arguments import (
    block_shape_arguments,
    described_operands,
    gather_arguments,
    integers,
    kernel_bias,
    period_arguments,
    tile_arguments,
    tma_arguments,
    variation_arguments,
)
from tritonconv.launch.layout import (
    adjacent_channels,
    alignment,
    dense_rows,
    is_evenly_spaced,
    is_wide,
    paired_vectors,
    weight_channels_last,
    weight_filters_last,
    weight_vector,
    width_of_stores,
)
from tritonconv.launch.plan import Copies, Launch, Plan, TileRequest
from tritonconv.launch.split_k import sum_of_partials, with_dependent_launch, workspace
from tritonconv.launch.tile_choice import tile_for
from tritonconv.tiling.descriptors import can_fold, host_describes
from tritonconv.tiling.tile import Tile


def plan(call: Call, gpu: Gpu, tile: Tile | None = None) -> Plan:
    """Return the plan of `call` on `gpu`, with `tile`, or, if that is None, with the tile that `tile_for` chooses.

    The call's dtype must be float16, bfloat16 or float32.
    """
    return PLANNERS[call.operator](call, gpu, tile)


def loaded_by_vectors(copies: Copies, side: Tensor, channels: int) -> tuple[Tensor, int]:
    """Return the side as `adjacent_channels` lays it out, and how many channels one load takes.

    `channels` counts those of one group. If the side is copied, the copy is added to `copies`.
    """
    side = copies.lay(side, partial(adjacent_channels, channels=channels))
    return side, alignment(side, channels)


def flatten_product(geometry: ConvGeometry, one: Tensor, other: Tensor) -> tuple[ConvGeometry, Tensor, Tensor]:
    """Return the geometry and views of both sides with all pixels in one row if that is possible, or else unchanged.

    It is possible if the convolution is a plain matrix product, and the pixels of both sides are evenly spaced. An
    empty batch is not flattened, because kernels divide by the pixels of an image.
    """
    if geometry.pointwise and geometry.B > 0:
        row_one, row_other = layout.one_row(one), layout.one_row(other)
        if row_one is not None and row_other is not None:
            return geometry.flattened(), row_one, row_other
    return geometry, one, other


class SideToSide(NamedTuple):
    """What the plans of fprop and dgrad have in common: they load one side and store the other.

    Loads and stores take `load_vector` and `store_vector` adjacent channels at once. `stored` is the result as the
    kernel sees it. If `geometry` is flattened, `loaded` and `stored` are one row of pixels.
    """

    copies: Copies
    geometry: ConvGeometry
    loaded: Tensor
    load_vector: int
    stored: Tensor
    store_vector: int
    bias: Tensor | None
    result: Tensor
    request: TileRequest
    tile: Tile

    @classmethod
    def of(cls, call: Call, gpu: Gpu, tile: Tile | None) -> "SideToSide":
        """Allocate the result, lay out the bias and the side that is loaded, and choose a tile if `tile` is None."""
        geometry, side = call.geometry, call.factors[0]
        channels = {"x": geometry.C // geometry.G, "y": geometry.F // geometry.G}
        taken, left_out = TAKES[call.operator][0], LEAVES_OUT[call.operator]
        copies = Copies()
        (result,) = layout.allocate_results(call, side)
        side, load = loaded_by_vectors(copies, side, channels[taken])
        store = width_of_stores(result, channels[left_out])
        bias = None if call.bias is None else copies.lay(call.bias, partial(kernel_bias, geometry=geometry))
        geometry, side, stored = flatten_product(geometry, side, result)
        operands = described_operands(geometry, load, store > 1, side)
        request = TileRequest(geometry, call.operator, operands, gpu)
        return cls(
            copies=copies,
            geometry=geometry,
            loaded=side,
            load_vector=load,
            stored=stored,
            store_vector=store,
            bias=bias,
            result=result,
            request=request,
            tile=tile or tile_for(request),
        )

    def plan_launch(self, kernel: Any, arguments: dict[str, Any]) -> Plan:
        """Return the plan that launches this kernel once, or not at all if the result is empty."""
        operator, gpu = self.request.operator, self.request.gpu
        programs = self.tile.programs(self.geometry, operator, self.loaded.element_size(), gpu)
        return Plan(
            results=(self.result,),
            launches=nonempty(Launch(kernel, programs, arguments)),
            tile=self.tile,
            request=self.request,
            copies=self.copies,
        )


def uses_host_descriptors(tile: Tile, geometry: ConvGeometry, operator: Operator, gpu: Gpu) -> bool:
    """Whether the host makes the TMA descriptors of this launch: if it can, and that has not failed before."""
    if failures.any_happened() and failures.happened(NoHostDescriptors(operator, gpu)):
        return False
    return host_describes(tile, geometry, operator, gpu.architecture)


def nonempty(*launches: Launch) -> list[Launch]:
    """Return those of the launches that start programs. A launch whose result is empty starts none."""
    return [each for each in launches if each.programs > 0]


def plan_fprop(call: Call, gpu: Gpu, tile: Tile | None) -> Plan:
    """Plan fprop: the features y (B, F, P, Q) from the image x (B, C, H, W), the weight and the bias."""
    from tritonconv.kernels.gather.fprop import fprop_kernel
    from tritonconv.kernels.tma.fprop import fprop_tma_kernel

    sides, (_, weight) = SideToSide.of(call, gpu, tile), call.factors
    geometry, tile, x, y = sides.geometry, sides.tile, sides.loaded, sides.stored
    folded = tile.uses_tma and geometry.subimages_seen > 1 and can_fold(geometry, geometry.C, tile.BLOCK_K)
    if folded:  # also if x is a slice of a wider tensor, so that its products are added up as those of a copy are
        x = sides.copies.lay(x, dense_rows)
    weight = sides.copies.lay(weight, weight_channels_last)
    arguments = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=sides.bias,
        y_ptr=y,
        **integers(geometry, x, y, sides.load_vector, sides.store_vector),
        WIDE=is_wide(y),
        **tile_arguments(x, tile),
    )
    if tile.uses_tma:
        more = period_arguments(geometry) | tma_arguments(geometry, tile)
        more |= dict(ONE_SUBIMAGE=geometry.subimages_seen == 1, LOADS_FOLDED=folded)
        if uses_host_descriptors(tile, geometry, "fprop", gpu):
            more |= fprop_descriptors(geometry, tile, x, weight, y, folded=folded, copies_out=sides.store_vector > 1)
        else:
            more |= dict(image=None, weight=None, result=None)
        return sides.plan_launch(fprop_tma_kernel, arguments | more)
    more = gather_arguments(geometry, x, sides.load_vector, sides.bias, y.shape, tile)
    return sides.plan_launch(fprop_kernel, arguments | more)


def plan_dgrad(call: Call, gpu: Gpu, tile: Tile | None) -> Plan:
    """Plan dgrad: the image x (B, C, H, W) from the features y (B, F, P, Q), the weight and the bias."""
    from tritonconv.kernels.gather.dgrad import dgrad_kernel
    from tritonconv.kernels.tma.dgrad import dgrad_tma_kernel

    sides, (_, weight) = SideToSide.of(call, gpu, tile), call.factors
    geometry, tile, x, y = sides.geometry, sides.tile, sides.stored, sides.loaded
    arguments = dict(
        y_ptr=y,
        bias_ptr=sides.bias,
        x_ptr=x,
        **integers(geometry, x, y, sides.store_vector, sides.load_vector),
        **period_arguments(geometry),
        WIDE=is_wide(x),
        **tile_arguments(y, tile),
    )
    if tile.uses_tma:
        # Tensor cores read 16-bit operands K-major or MN-major, and 32-bit ones only K-major.
        transposed = y.element_size() == 2
        folded = geometry.phases > 1 and sides.store_vector > 1 and can_fold(geometry, geometry.C, tile.BLOCK_N)
        filters_last = partial(weight_filters_last, groups=geometry.G, multiple=tile.BLOCK_K)
        weight = sides.copies.lay(weight, weight_channels_last if transposed else filters_last)
        arguments |= dict(
            weight_ptr=weight,
            **tma_arguments(geometry, tile),
            TRANSPOSED=transposed,
            STRIDED=geometry.phases > 1,
            STORES_FOLDED=folded,
        )
        if uses_host_descriptors(tile, geometry, "dgrad", gpu):
            copies_out = folded or (sides.store_vector > 1 and geometry.phases == 1)
            flags = dict(transposed=transposed, folded=folded, copies_out=copies_out)
            arguments |= dgrad_descriptors(geometry, tile, y, weight, x, **flags)
        else:
            arguments |= dict(features=None, weight=None, result=None)
        return sides.plan_launch(dgrad_tma_kernel, arguments)
    how = weight_channels_last if geometry.varies else partial(weight_filters_last, groups=geometry.G)
    arguments |= dict(
        weight_ptr=sides.copies.lay(weight, how),
        **gather_arguments(geometry, y, sides.load_vector, sides.bias, x.shape, tile),
        VECTOR_WEIGHT=weight_vector(weight) if geometry.varies else 1,
    )
    return sides.plan_launch(dgrad_kernel, arguments)


def plan_wgrad(call: Call, gpu: Gpu, tile: Tile | None) -> Plan:
    """Plan wgrad: the weight's gradient (F, C/G, R, S) from the image x (B, C, H, W) and the features y (B, F, P, Q).

    If the weight varies, so does its gradient, which then has the axes of `geometry.varies` in front. If the call finds
    the gradient of the bias (F,), that is the sum of y. The workspace holds partial sums of both in float32, as
    `split_k.partial_sums` explains. If memory does not suffice, SPLIT_K is reduced, with a warning. Raise
    torch.OutOfMemoryError if memory does not suffice for a SPLIT_K of 1.
    """
    from tritonconv.kernels.gather.wgrad import wgrad_kernel
    from tritonconv.kernels.tma.wgrad import wgrad_tma_kernel

    geometry, (x, y) = call.geometry, call.factors
    results = layout.allocate_results(call, x)
    weight, bias = results[0], results[1] if call.finds_bias else None
    copies = Copies()
    x, vector_x = loaded_by_vectors(copies, x, geometry.C // geometry.G)
    y, vector_y = loaded_by_vectors(copies, y, geometry.F // geometry.G)
    vector_x, vector_y = paired_vectors(vector_x, vector_y, 16 // x.element_size())
    geometry, x, y = flatten_product(geometry, x, y)
    operands = described_operands(geometry, min(vector_x, vector_y), True, x, y)
    # A TMA block of whole rows is a block of a matrix of B*P*Q positions, whose rows are counted in 32 bits.
    if not is_evenly_spaced(y) or geometry.gemm("wgrad").K >= 2**31:
        operands = replace(operands, tma_possible=False)
    request = TileRequest(geometry, "wgrad", operands, gpu)
    chosen = tile or tile_for(request)
    tile, partials, bias_partials = workspace(chosen, geometry, weight, bias)
    arguments = dict(
        x_ptr=x,
        y_ptr=y,
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        **integers(geometry, x, y, vector_x, vector_y),
        splits=tile.SPLIT_K,
        DEPENDENT_LAUNCH=False,
        **tile_arguments(x, tile),
    )
    if tile.uses_tma:
        kernel, more = wgrad_tma_kernel, dict[str, Any](image=None, features=None, **block_shape_arguments(tile))
        # A copy counts channels in 32 bits, and those that the stride skips count as channels.
        narrow = (geometry.stride_w - 1) * x.stride(3) + geometry.C < 2**31
        if narrow and uses_host_descriptors(tile, geometry, "wgrad", gpu):
            more |= wgrad_descriptors(geometry, tile, x, y)
    else:
        # The offset from the first window to one beyond the last.
        steps = (x.stride(0), geometry.stride_h * x.stride(2), geometry.stride_w * x.stride(3))
        far = sum(map(mul, geometry.pixels("wgrad"), steps)) >= 2**31
        # A product of one location counts only images. It takes fewer registers if that is done in 64 bits.
        wide = far or is_wide(y) or geometry.per_location
        kernel, more = wgrad_kernel, dict(WIDE=wide, **variation_arguments(geometry))
    launches = [Launch(kernel, tile.programs(geometry, "wgrad", x.element_size(), gpu), arguments | more)]
    if partials is not weight or bias is not None:
        launches.append(sum_of_partials(geometry, weight, bias, partials, bias_partials, tile))
    launches = nonempty(*launches)
    if len(launches) == 2 and gpu.architecture.dependent_launch and not failures.happened(NoDependentLaunch(gpu)):
        launches = with_dependent_launch(*launches)
    return Plan(
        results=results,
        launches=launches,
        tile=tile,
        request=request,
        copies=copies,
        workspaces=tuple(sums for sums in (partials, bias_partials) if sums is not None and sums is not weight),
        reduced=tile != chosen,
    )


PLANNERS: dict[Operator, Callable[[Call, Gpu, Tile | None], Plan]] = {
    "fprop": plan_fprop,
    "dgrad": plan_dgrad,
    "wgrad": plan_wgrad,
}
