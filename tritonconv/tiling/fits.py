"""Which tiles are available: those that the GPU has the shared memory, registers and hardware for."""

from dataclasses import astuple, replace
from itertools import product

from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling.block_shapes import with_some_shape
from tritonconv.tiling.catalogue import FEW, designed, designed_for_tma, images, shipped
from tritonconv.tiling.tile import Operands, Tile


def fits(tile: Tile, operator: Operator, itemsize: int, gpu: Gpu) -> bool:
    """Whether the GPU can run `tile`, by the limits of its architecture.

    The block sizes must be powers of two, and at least 16 unless the tile takes at most FEW images at once. The shared
    memory and the accumulators of a thread must be at most what the architecture has. A tile for TMA needs a GPU with
    TMA.
    """
    blocks = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K)
    few = images(tile, operator) <= FEW
    if any(block < (1 if few else 16) or block & (block - 1) for block in blocks):
        return False
    architecture = gpu.architecture
    if tile.uses_tma and not architecture.tma:
        return False
    # Without tensor cores, each of the BLOCK_K products of a step has an accumulator of its own.
    threads = architecture.multiprocessor.lanes * tile.num_warps
    accumulators = tile.BLOCK_M * tile.BLOCK_N * (tile.BLOCK_K if few else 1) // threads
    most = architecture.wgrad_accumulators if operator == "wgrad" else architecture.accumulators
    return at_most(accumulators, most) and at_most(
        tile.shared_bytes(operator, itemsize, gpu), architecture.shared_bytes
    )


def at_most(amount: int, limit: int | None) -> bool:
    """Whether `amount` is within the limit. None is no limit."""
    return limit is None or amount <= limit


def runnable(tiles: list[Tile], operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Return those of the tiles that fit the GPU.

    If the architecture's pipeliner accepts only one `num_stages`, the tiles get that one first.
    """
    stages = gpu.architecture.stages
    adapted = tiles if stages is None else [replace(tile, num_stages=stages) for tile in tiles]
    return [tile for tile in adapted if fits(tile, operator, operands.itemsize, gpu)]


def available(operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Return the available tiles: those shipped for these operands that fit the GPU, as `runnable` adapts them."""
    return runnable(shipped(operator, operands), operator, operands, gpu)


def tuning_grid(operator: Operator, operands: Operands, gpu: Gpu) -> list[Tile]:
    """Return every tile of a full grid that fits the GPU: the ones that `python -m bench tune --grid` may try.

    TMA tiles have some block shape. For a weight of each location, the designed tiles for at most FEW images are added.
    `fits` estimates registers; only the compiler knows whether they are enough.
    """
    if "p" in operands.varies:
        few = {tile for tile in designed(operator, operands) if images(tile, operator) <= FEW}
        grid = product((16, 32, 64, 128), (16, 32, 64, 128), (16, 32, 64), (1, 2, 4, 8), (2, 3, 4))
        found = [*sorted(few, key=astuple), *(Tile(*blocks) for blocks in grid)]
        return runnable(found, operator, operands, gpu)
    grid = product((64, 128, 256), (16, 32, 64, 128, 256), (64, 128), (4, 8), (2, 3, 4))
    tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in grid]
    if designed_for_tma(operator, operands):
        wide = [tile for tile in tiles if tile.BLOCK_N >= 64]
        tiles += [with_some_shape(tile, operator) for tile in wide]
    return runnable(tiles, operator, operands, gpu)
