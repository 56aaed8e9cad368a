"""Pick the tile for a problem: the measured one, or else the one that is fastest by the cost model.

`tritonconv.tiling.catalogue` lists the stages that a tile passes before it is picked.
"""

from dataclasses import astuple, replace
from functools import lru_cache

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.tiling import measured
from tritonconv.tiling.block_shapes import with_best_shape
from tritonconv.tiling.catalogue import FEW, designed, designed_for_tma, images
from tritonconv.tiling.cost import expected
from tritonconv.tiling.fits import available, runnable
from tritonconv.tiling.tile import Operands, Tile


@lru_cache(maxsize=4096)
def pick(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile:
    """Return the tile that runs a problem: the measured one if it is suited, or else the fastest by the cost model.

    The measured tile is the one that a table of this GPU, or of one like it, has under the problem's key
    (`measured_for`). It is suited if `suited` returns it with a SPLIT_K of 1. Otherwise `fastest` chooses among the
    tiles that `suited` returns. Triton's interpreter gets a tile of its own (`interpreter_tile`).

    The same arguments always give the same tile. So ranks of a distributed run agree if their GPUs and problems are
    equal. An architecture without a row gets cautious limits (`gpu.architecture`), within which some tile fits.
    """
    if gpu == INTERPRETER:
        return interpreter_tile(geometry, operator, operands)
    tiles = suited(available(operator, operands, gpu), geometry, operator, operands, gpu)
    known = measured_for(geometry, operator, operands, gpu)
    if known and replace(known, SPLIT_K=1) in tiles:
        return known
    return fastest(tiles, geometry, operator, operands, gpu)


def measured_for(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile | None:
    """Return the tile that a table has under the key of the problem (`measured.key`). None if no table has one.

    `measured.rows` says which tables serve this GPU. The tile has the table's SPLIT_K, and the best block shape for
    this problem.
    """
    known = measured.rows(gpu).get(measured.key(geometry, operator, *astuple(operands)))
    return with_best_shape(Tile(*known.tile), geometry, operator) if known else None


def measured_on(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> str | None:
    """Return the name of the GPU that the tile of `measured_for` was measured on. None if there is no such tile."""
    known = measured.rows(gpu).get(measured.key(geometry, operator, *astuple(operands)))
    return known.gpu if known else None


def interpreter_tile(geometry: ConvGeometry, operator: Operator, operands: Operands) -> Tile:
    """Return a tile for Triton's interpreter, which takes as much time as there are steps.

    Each block size is the smallest power of two that covers the extent of the product, but at least 16 and at most 64.
    K counts the channels of one tap. A block may have fewer than 16 images if each location has a weight that at most
    FEW images share. The tile is for TMA if `designed_for_tma` has tiles for the operands.
    """
    M, N, K, _ = geometry.gemm(operator)
    if operator != "wgrad":
        K //= geometry.R * geometry.S
    M, N, K = (min(64, power_of_two(extent)) for extent in (M, N, K))
    if geometry.per_location and geometry.images_per_weight <= FEW:
        few = 1 << max(0, geometry.images_per_weight - 1).bit_length()
        M, K = (M, few) if operator == "wgrad" else (few, K)
    tile = Tile(M, N, K, num_warps=4, num_stages=1)
    if not designed_for_tma(operator, operands):
        return tile
    if operator == "wgrad":
        tile = replace(tile, BLOCK_N=min(64, power_of_two(geometry.C // geometry.G)))
    return with_best_shape(replace(tile, BLOCK_B=1), geometry, operator)


def suited(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Return those of the tiles that may run this problem, with the best block shape for its pixels.

    For a weight of each location, these are the tiles that `for_images` returns. Otherwise they are, for fprop and
    dgrad, the tiles with the order that `usual_summation_order` returns, and for wgrad all tiles.
    """
    if geometry.per_location:
        return for_images(tiles, geometry, operator)
    if operator != "wgrad":
        wanted = usual_summation_order(geometry, operator, operands, gpu)
        tiles = [tile for tile in tiles if summation_order(tile) == wanted]
    return [with_best_shape(tile, geometry, operator) for tile in tiles]


def for_images(tiles: list[Tile], geometry: ConvGeometry, operator: Operator) -> list[Tile]:
    """Return those of the tiles that take the right number of images at once, if each location has a weight.

    If more than FEW images share a weight, these are all tiles for more than FEW. Otherwise only tiles for at most FEW
    count: those for the smallest number that covers the images, or for the largest number if none does.
    """
    there = geometry.images_per_weight
    if there > FEW:
        return [tile for tile in tiles if images(tile, operator) > FEW]
    counts = sorted({images(tile, operator) for tile in tiles if images(tile, operator) <= FEW})
    wanted = next((n for n in counts if n >= there), counts[-1])
    return [tile for tile in tiles if images(tile, operator) == wanted]


def summation_order(tile: Tile) -> tuple[int, bool]:
    """Return the fields of a tile that decide in which order fprop and dgrad add up the products of a result."""
    return tile.BLOCK_K, tile.uses_tma


def usual_summation_order(geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> tuple[int, bool]:
    """Return the summation order of fprop and dgrad for a problem with any batch and memory format.

    It is that of the designed tile that is fastest by the cost model for a batch of USUAL_BATCH and whole stores. So a
    batch gives the same bits as its images one by one, even if other tiles compute them. The same holds for an image
    that is cut out and no longer channels_last. Measured tiles do not count here, so a new table changes no order.
    """
    usual = replace(geometry, B=USUAL_BATCH)
    if geometry.pointwise:  # which may have been flattened to one row of pixels, without a batch
        usual = replace(geometry, B=1, H=1, P=1, W=USUAL_PIXELS, Q=USUAL_PIXELS)
    operands = replace(operands, whole_stores=True)
    tiles = runnable(designed(operator, operands), operator, operands, gpu)
    tiles = [with_best_shape(tile, usual, operator) for tile in tiles]
    return summation_order(fastest(tiles, usual, operator, operands, gpu))


def fastest(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Tile:
    """Return the tile that finishes first by the cost model; for wgrad with the SPLIT_K that is expected to be best.

    If the model sees no difference, the tile with the larger block wins, and then the one with the smaller SPLIT_K.
    """
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
    """Return the tiles: for wgrad, each with every SPLIT_K that `splits` returns; for fprop and dgrad unchanged."""
    if operator != "wgrad":
        return tiles
    return [replace(tile, SPLIT_K=n) for tile in tiles for n in splits(geometry, tile, operands, gpu)]


def splits(geometry: ConvGeometry, tile: Tile, operands: Operands, gpu: Gpu) -> list[int]:
    """Return the values of SPLIT_K that are worth considering for a tile of wgrad, in ascending order.

    These are 1, and those with which at most one, two or four programs for each multiprocessor are started. Values that
    break one of two limits are lowered until they keep both. The partial sums, written and read in float32, are at most
    a tenth of the bytes that programs read of the operands. Each part has at least LEAST_STEPS steps on average.
    """
    programs = max(1, tile.blocks(geometry, "wgrad"))
    read = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    least = max(LEAST_STEPS, ceildiv(10 * 2 * 4 * tile.BLOCK_M * tile.BLOCK_N, read))
    most = max(1, tile.steps(geometry, "wgrad") // least)
    return sorted({min(most, max(1, waves * gpu.multiprocessors // programs)) for waves in (0, 1, 2, 4)})


# The batch that fixes the summation order: one that GPUs are trained with. USUAL_PIXELS counts where the problem is
# flattened to one row of pixels.
USUAL_BATCH, USUAL_PIXELS = 128, 128 * 28 * 28


# A part of wgrad's reduction with fewer steps would not repay its start and its partial sums.
LEAST_STEPS = 16


def power_of_two(extent: int) -> int:
    """Return the smallest power of two that is at least `extent`, and at least 16."""
    return max(16, 1 << max(0, extent - 1).bit_length())
