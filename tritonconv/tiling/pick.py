"""Choose the tile for a problem: the measured one, or else the one that the cost model expects to be fastest."""

from dataclasses import astuple, replace
from functools import lru_cache

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.tiling import measured
from tritonconv.tiling.block_shapes import with_best_shape
from tritonconv.tiling.catalogue import FEW, designed, designed_for_blocks, images
from tritonconv.tiling.cost import expected
from tritonconv.tiling.fits import available, runnable
from tritonconv.tiling.tile import Operands, Tile


@lru_cache(maxsize=4096)
def pick(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile:
    """The tile for a problem, the same on every rank: the measured one, or else what the model expects to be fastest.

    On an unknown GPU the tiles that fit every GPU are left, so there always is one.
    """
    if gpu == INTERPRETER:
        return interpreter_tile(geometry, operator, operands)
    tiles = suited(available(operator, operands, gpu), geometry, operator, operands, gpu)
    known = measured_for(geometry, operator, operands, gpu)
    if known and replace(known, SPLIT_K=1) in tiles:
        return known
    return fastest(tiles, geometry, operator, operands, gpu)


def measured_for(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile | None:
    """What was measured to be best for such a problem on such a GPU, if that was measured."""
    known = measured.table(gpu.name).get(measured.key(geometry, operator, *astuple(operands)))
    return with_best_shape(Tile(*known), geometry, operator) if known else None


def interpreter_tile(geometry: ConvGeometry, operator: Operator, operands: Operands) -> Tile:
    """No larger than the problem, and at most 64 wide each way: for the interpreter, whose time goes by steps."""
    M, N, K, _ = geometry.gemm(operator)
    if operator != "wgrad":
        K //= geometry.R * geometry.S
    M, N, K = (min(64, power_of_two(extent)) for extent in (M, N, K))
    if geometry.per_location and geometry.images_per_weight <= FEW:
        few = 1 << max(0, geometry.images_per_weight - 1).bit_length()
        M, K = (M, few) if operator == "wgrad" else (few, K)
    tile = Tile(M, N, K, num_warps=4, num_stages=1)
    if not designed_for_blocks(operator, operands):
        return tile
    if operator == "wgrad":
        tile = replace(tile, BLOCK_N=min(64, power_of_two(geometry.C // geometry.G)))
    return with_best_shape(replace(tile, BLOCK_B=1), geometry, operator)


def suited(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Those of the tiles that may run for such a problem, in the shape for it: of so many images, or for fprop and
    dgrad those that add up its products in the same order.
    """
    if geometry.per_location:
        return for_images(tiles, geometry, operator)
    if operator != "wgrad":
        wanted = usual_summation_order(geometry, operator, operands, gpu)
        tiles = [tile for tile in tiles if summation_order(tile) == wanted]
    return [with_best_shape(tile, geometry, operator) for tile in tiles]


def for_images(tiles: list[Tile], geometry: ConvGeometry, operator: Operator) -> list[Tile]:
    """Those of the tiles for a weight of each location that suit so many images: with tensor cores for more than FEW,
    and for fewer those that take no more at once than there are, rounded up, as far as there are such.
    """
    there = geometry.images_per_weight
    if there > FEW:
        return [tile for tile in tiles if images(tile, operator) > FEW]
    counts = sorted({images(tile, operator) for tile in tiles if images(tile, operator) <= FEW})
    wanted = next((n for n in counts if n >= there), counts[-1])
    return [tile for tile in tiles if images(tile, operator) == wanted]


def summation_order(tile: Tile) -> tuple[int, bool]:
    """What of a tile decides in which order fprop and dgrad add up a result's products."""
    return tile.BLOCK_K, tile.uses_tma


def usual_summation_order(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> tuple[int, bool]:
    """In which order fprop and dgrad add up products for such a problem, whatever its batch, and whatever memory format
    its result has: as the model wants it for a usual one.

    So a batch gives the same bits as its images do one by one, though another tile computes them, and though an image
    that is cut out may no longer be channels_last.
    """
    usual = replace(geometry, B=USUAL_BATCH)
    if geometry.pointwise:  # which may be one row of pixels, and then has no batch
        usual = replace(geometry, B=1, H=1, P=1, W=USUAL_PIXELS, Q=USUAL_PIXELS)
    operands = replace(operands, whole_stores=True)
    tiles = runnable(designed(operator, operands), operator, operands, gpu)
    tiles = [with_best_shape(tile, usual, operator) for tile in tiles]
    return summation_order(fastest(tiles, usual, operator, operands, gpu))


def fastest(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile:
    """The one of `tiles` that is `expected` to finish first; the larger one where the model sees no difference."""
    return min(
        with_splits(tiles, geometry, operator, operands, gpu),
        key=lambda tile: (
            expected(tile, geometry, operator, operands, gpu).cycles,
            -tile.BLOCK_M * tile.BLOCK_N,
            tile.SPLIT_K,
        ),
    )


def with_splits(
    tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu
) -> list[Tile]:
    """Each tile, for wgrad with every split of the reduction that is worth considering."""
    if operator != "wgrad":
        return tiles
    return [replace(tile, SPLIT_K=n) for tile in tiles for n in splits(geometry, tile, operands, gpu)]


def splits(geometry: ConvGeometry, tile: Tile, operands: Operands, gpu: Gpu) -> list[int]:
    """Into how many parts wgrad's reduction may be cut: one, or so many that one, two or four waves fill the GPU.

    The partial sums, written and read in float32, are at most a tenth of the bytes that programs read of the operands.
    At least LEAST_STEPS steps remain to each part.
    """
    programs = max(1, tile.blocks(geometry, "wgrad"))
    read = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    least = max(LEAST_STEPS, ceildiv(10 * 2 * 4 * tile.BLOCK_M * tile.BLOCK_N, read))
    most = max(1, tile.steps(geometry, "wgrad") // least)
    return sorted({min(most, max(1, waves * gpu.multiprocessors // programs)) for waves in (0, 1, 2, 4)})


# The batch by which the order of a sum is chosen: what a GPU is trained with; and its pixels where they are one row.
USUAL_BATCH, USUAL_PIXELS = 128, 128 * 28 * 28


# Steps below which a part of wgrad's reduction would not repay its start and its partial sums.
LEAST_STEPS = 16


def power_of_two(extent: int) -> int:
    """The smallest power of two that covers `extent`, and 16 at least."""
    return max(16, 1 << max(0, extent - 1).bit_length())
