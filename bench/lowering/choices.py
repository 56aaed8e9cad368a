"""The table of `bench lowering --layers`: the tile that `pick` chooses for each layer, and its expected bottleneck.

Nothing is compiled or measured.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from bench import table
from bench.layers import Layer
from bench.lowering.offline import kernels_for, operator_of, plan_for
from tritonconv.gpu import Gpu
from tritonconv.tiling.cost import expected

HEADER = ("layer", "operator", "tile", "pixels", "blocks", "rounds", "steps", "full", "limit")
LEGEND = """\
tile    BLOCK_M x BLOCK_N x BLOCK_K, then w and the warps, s and the pipelining stages. After a colon: the images, rows
        and columns of a block of pixels that TMA copies. After a slash: the parts of a split-K sum.
pixels  in blocks: copied by TMA. gathered: each at an address of its own.
blocks  how many blocks of results there are, or of partial sums.
rounds  how many times the GPU must be filled with blocks to compute all of them.
steps   steps of the main loop for each block. In dgrad: the mean over the phases of the stride.
full    the share of the multiplications that the layer needs. The rest is where blocks overhang the operands.
limit   what the cost model expects to take most of the time.
Nothing here was measured on a GPU. The tile is the choice of the cost model in tritonconv/tiling/cost.py."""


def choices(layers: Iterable[Layer], dtype: str, gpu: Gpu) -> Iterator[tuple[object, ...]]:
    """Yield a row for each operator of each layer: the tile that `pick` chooses on `gpu`, and what follows from it.

    A row has the columns of HEADER, which LEGEND explains. The operands have `dtype` and are in channels_last. There is
    no bias, and no row for the kernel that adds up wgrad's partial sums.
    """
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
            at_once = gpu.multiprocessors * tile.occupancy(operator, operands.itemsize, gpu)
            yield (
                *(layer.name, operator, tile, "in blocks" if tile.uses_tma else "gathered", blocks),
                *(ceil(blocks / at_once), ceil(steps)),
                f"{geometry.flops / 2 / products:.2f}",
                expected(tile, geometry, operator, operands, gpu).limit,
            )


def shown(layers: Sequence[Layer], dtypes: Iterable[str], archs: Iterable[str], gpus: Iterable[Gpu]) -> str:
    """Return the legend, and a table for each architecture and dtype. `gpus` are in the order of `archs`."""
    parts = [
        f"{arch}, {dtype}\n{table.columns(list(HEADER), [list(row) for row in choices(layers, dtype, gpu)])}"
        for arch, gpu in zip(archs, gpus, strict=True)
        for dtype in dtypes
    ]
    return "\n\n".join([LEGEND, *parts])
