"""Which tiles may run on a GPU."""

from dataclasses import astuple, replace
from itertools import product

from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling.block_shapes import with_some_shape
from tritonconv.tiling.catalogue import FEW, designed, designed_for_blocks, images, shipped
from tritonconv.tiling.tile import Operands, Tile


def fits(tile: Tile, operator: Operator, itemsize: int, gpu: Gpu) -> bool:
    """Whether `tile` may run: powers of two, as large as tensor cores want where they are used, shared memory,
    registers, and hardware that copies blocks, if it has such.

    The limits are those of the GPU's architecture.
    """
    blocks = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K)
    few = images(tile, operator) <= FEW
    if any(block < (1 if few else 16) or block & (block - 1) for block in blocks):
        return False
    architecture = gpu.architecture
    if tile.uses_tma and not architecture.tma:
        return False
    # Without tensor cores, products wait to be added up.
    threads = architecture.multiprocessor.lanes * tile.num_warps
    accumulators = tile.BLOCK_M * tile.BLOCK_N * (tile.BLOCK_K if few else 1) // threads
    most = architecture.wgrad_accumulators if operator == "wgrad" else architecture.accumulators
    return at_most(accumulators, most) and at_most(
        tile.shared_bytes(operator, itemsize, gpu), architecture.shared_bytes
    )


def at_most(amount: int, limit: int | None) -> bool:
    """Whether there is so much, where None is no limit."""
    return limit is None or amount <= limit


def runnable(tiles: list[Tile], operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Those of the tiles that fit, with the only number of stages that the GPU's pipeliner wants, if it wants one."""
    stages = gpu.architecture.stages
    adapted = tiles if stages is None else [replace(tile, num_stages=stages) for tile in tiles]
    return [tile for tile in adapted if fits(tile, operator, operands.itemsize, gpu)]


def available(operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """The shipped tiles that fit, as `runnable` adapts them."""
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
        tiles += [with_some_shape(tile, operator) for tile in wide]
    return runnable(tiles, operator, operands, gpu)
