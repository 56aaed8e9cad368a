"""Which tiles may run on a GPU."""

from dataclasses import astuple, replace
from itertools import product

from tritonconv.geometry import Operator
from tritonconv.gpu import COPIES_BLOCKS, INTERPRETER, Gpu
from tritonconv.tiling.block_shapes import in_shape, pixels_of, shapes
from tritonconv.tiling.catalogue import FEW, designed, designed_for_blocks, images, shipped
from tritonconv.tiling.tile import Operands, Tile


def fits(tile: Tile, operator: Operator, itemsize: int, gpu: Gpu) -> bool:
    """Whether `tile` may run: powers of two, as large as tensor cores want where they are used, shared memory,
    registers, and hardware that copies blocks, if it has such.

    On sm_90, sm_100 and sm_103 a thread may hold 128 accumulators. Elsewhere operands and accumulators share its 255
    registers, and so they do in wgrad on sm_100, where sums on their way from tensor memory meet those of the bias.
    """
    blocks = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K)
    few = images(tile, operator) <= FEW
    if any(block < (1 if few else 16) or block & (block - 1) for block in blocks):
        return False
    if gpu == INTERPRETER:
        return True
    if tile.uses_tma and gpu.capability < COPIES_BLOCKS:
        return False
    # Without tensor cores, products wait to be added up.
    accumulators = tile.BLOCK_M * tile.BLOCK_N * (tile.BLOCK_K if few else 1) // (32 * tile.num_warps)
    most = 128 if gpu.capability in ((90,) if operator == "wgrad" else (90, 100, 103)) else 64
    return accumulators <= most and tile.shared_bytes(operator, itemsize, gpu.capability) <= gpu.shared_bytes


def runnable(tiles: list[Tile], operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    adapted = [replace(tile, num_stages=2) if gpu.capability == 0 else tile for tile in tiles]
    return [tile for tile in adapted if fits(tile, operator, operands.itemsize, gpu)]


def available(operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """The shipped tiles that fit, with the two stages that AMD's pipeliner wants."""
    return runnable(shipped(operator, operands), operator, operands, gpu)


def legal(operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Every tile that fits: what may be tuned. Whether registers suffice, only the compiler knows."""
    if "p" in operands.varies:
        few = {tile for tile in designed(operator, operands) if images(tile, operator) <= FEW}
        grid = product((16, 32, 64, 128), (16, 32, 64, 128), (16, 32, 64), (1, 2, 4, 8), (2, 3, 4))
        found = [*sorted(few, key=astuple), *(Tile(*blocks) for blocks in grid)]
        return runnable(found, operator, operands, gpu)
    grid = product((64, 128, 256), (16, 32, 64, 128, 256), (64, 128), (4, 8), (2, 3, 4))
    tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in grid]
    if designed_for_blocks(operator, operands):
        wide = [tile for tile in tiles if tile.BLOCK_N >= 64]
        tiles += [in_shape(tile, shapes(pixels_of(tile, operator), operator)[0]) for tile in wide]
    return runnable(tiles, operator, operands, gpu)
