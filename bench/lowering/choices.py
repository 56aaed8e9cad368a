"""What `pick` chooses for every layer, and what the model expects to bound it. Compiles nothing, measures nothing."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from bench import table
from bench.layers import Layer
from bench.lowering.offline import kernels_for, operator_of, plan_for
from tritonconv.gpu import Gpu
from tritonconv.tiling.cost import expected

HEADER = ("layer", "operator", "tile", "pixels", "blocks", "rounds", "steps", "full", "limit")
LEGEND = """\
tile: BLOCK_M x BLOCK_N x BLOCK_K, warps, stages; :images.rows.columns of a block of pixels that is copied whole; /parts
of a split reduction. blocks: of results, or of parts of their sums. rounds: in which they are computed. steps: of each
block, of dgrad's phases the mean. full: the share of what is multiplied that is not overhang. limit: what the model
expects to take most of the time. Nothing here was measured: the choice follows the model in tritonconv/tiling/cost.py,
but where a table of the GPU has a row."""


def choices(layers: Iterable[Layer], dtype: str, gpu: Gpu) -> Iterator[tuple[object, ...]]:
    """One row for each operator of each layer, as HEADER names them."""
    for layer in layers:
        for kernel in kernels_for(layer.geometry):
            if kernel == "wgrad_with_bias":
                continue
            operator = operator_of(kernel)
            plan = plan_for(operator, dtype, layer.geometry, gpu)
            tile, (geometry, _, operands, _) = plan.tile, plan.request
            steps = tile.steps(geometry, operator) / (geometry.phases if operator == "dgrad" else tile.SPLIT_K)
            blocks = tile.blocks(geometry, operator) * tile.SPLIT_K
            products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K * blocks * steps
            at_once = gpu.multiprocessors * tile.together(operator, operands.itemsize, gpu)
            yield (
                *(layer.name, operator, tile, "in blocks" if tile.uses_tma else "gathered", blocks),
                *(ceil(blocks / at_once), ceil(steps)),
                f"{geometry.flops / 2 / products:.2f}",
                expected(tile, geometry, operator, operands, gpu).limit,
            )


def shown(layers: Sequence[Layer], dtypes: Iterable[str], archs: Iterable[str], gpus: Iterable[Gpu]) -> str:
    """A table for each architecture and dtype."""
    parts = [
        f"{arch}, {dtype}\n{table.columns(list(HEADER), [list(row) for row in choices(layers, dtype, gpu)])}"
        for arch, gpu in zip(archs, gpus, strict=True)
        for dtype in dtypes
    ]
    return "\n\n".join([*parts, LEGEND])
