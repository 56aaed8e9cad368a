"""How long a tile is expected to take, by counting what a GPU has to do: for choosing tiles, not for reporting.

The constants that are called fitted are those by which the 800 times of bench/results/h200-tiles.json, of tiles of
dense layers on an H200 in bfloat16, come out best: off by 17 % in the root mean square, and the tile that is expected
to be fastest takes 2.6 % longer than the one that is, in the geometric mean, and 28 % at worst. For other GPUs
they are estimates.
"""

from math import ceil
from typing import NamedTuple

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import ISSUES, Architecture, Gpu
from tritonconv.tiling.tile import Operands, Tile

# Instructions of each warp in one step, as `python -m bench lowering` counts them on sm_90: of a loop, and for each
# 16 bytes that a thread copies of a side, with its mask, and of a weight; in wgrad fitted, since others wait for those.
# Loops that copy by TMA do so by one thread. A warp counts as 32 threads on every GPU, AMD's included.
LOOP, TMA_LOOP, TMA_WGRAD_LOOP = 45, 95, 90
PER_SIDE_COPY, PER_WEIGHT_COPY, PER_WGRAD_COPY = 11, 3, 58
# And of a warp whose operands go through registers, for each 16 x 8 x 16 products: the product, and half a load.
PER_PRODUCT = 1.5
# Cycles that programs take until they multiply; that a block takes beside its steps, where a program computes one and
# where it computes several; that a step waits; and those of starting a second kernel. Fitted.
PER_PROGRAM, PER_BLOCK, PER_TILE, PER_STEP, PER_LAUNCH = 12_000, 3_400, 1_750, 355, 6_300
# How much of the time it could be multiplying a loop does that waits for nothing. Fitted.
BUSY = 0.78
# The share of what could be done at the same time that is not: an estimate.
APART = 0.1


class Estimate(NamedTuple):
    """The cycles that a launch takes, and what most of them go to: products, L2, instructions, memory or waiting."""

    cycles: float
    limit: str


def expected(tile: Tile, geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Estimate:
    """What `operator` would take with `tile`: the time of the busiest multiprocessor, or of the memory they share."""
    architecture = gpu.architecture
    blocks = tile.blocks(geometry, operator) * tile.SPLIT_K
    # Rounds of as many blocks as multiprocessors compute at a time, and what is left for the last.
    together = tile.together(operator, operands.itemsize, gpu)
    rounds, left = divmod(blocks, gpu.multiprocessors * together)
    last = ceil(left / gpu.multiprocessors)
    step = cycles_of_step(tile, geometry, operator, operands, architecture)
    crowd = together if rounds else last
    limit = max(step, key=lambda name: step[name] * (1 if name == "waiting" else crowd))
    working = rounds * cycles_of_block(tile, geometry, operator, operands, architecture, together)
    if last:
        working += cycles_of_block(tile, geometry, operator, operands, architecture, last)
    working += PER_PROGRAM
    partials = partial_bytes(tile, geometry, operator)
    moved = geometry.minimal_bytes(operands.itemsize) + 2 * partials
    moving = moved / architecture.rates.bandwidth.memory / gpu.multiprocessors
    shorter, longer = sorted((moving, working))
    return Estimate(longer + APART * shorter + (PER_LAUNCH if partials else 0), "memory" if moving == longer else limit)


def cycles_of_block(
    tile: Tile,
    geometry: ConvGeometry,
    operator: Operator,
    operands: Operands,
    architecture: Architecture,
    together: int,
) -> float:
    """Of one block of results, while a multiprocessor computes so many `together`."""
    steps = tile.steps(geometry, operator) / (geometry.phases if operator == "dgrad" else tile.SPLIT_K)
    step = cycles_of_step(tile, geometry, operator, operands, architecture)
    slowest = max(cycles * (1 if name == "waiting" else together) for name, cycles in step.items())
    stored = tile.BLOCK_M * tile.BLOCK_N * (4 if operator == "wgrad" else operands.itemsize)
    result = together * stored * (1 if operands.whole_stores else 2) / architecture.rates.bandwidth.l2
    return steps * slowest + result + (PER_TILE if tile.uses_tma and operator != "wgrad" else PER_BLOCK)


def cycles_of_step(
    tile: Tile, geometry: ConvGeometry, operator: Operator, operands: Operands, architecture: Architecture
) -> dict[str, float]:
    """Of one program that has its multiprocessor to itself: those of multiplying, of copying from L2, of issuing, and
    those that one step waits for the one before, whatever else runs.
    """
    (half, tf32, float32), bandwidth = architecture.rates
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K
    per_cycle = float32 if operands.exact else half if operands.itemsize == 2 else tf32
    copied = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    issued = instructions(tile, operator, operands, architecture) * tile.num_warps
    return {
        "products": products / per_cycle / BUSY,
        "L2": copied / bandwidth.l2 * tile.strain(geometry, operator),
        "instructions": issued / ISSUES,
        "waiting": PER_STEP,
    }


def instructions(tile: Tile, operator: Operator, operands: Operands, architecture: Architecture) -> float:
    """Of each warp, in one step."""
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K / tile.num_warps
    if operands.exact:
        multiply = products / 32
    else:
        loaded = PER_PRODUCT * products / (16 * 8 * 32 // operands.itemsize)
        multiply = 0 if architecture.products_from_shared else loaded
    if tile.uses_tma:
        return multiply + (TMA_WGRAD_LOOP if operator == "wgrad" else TMA_LOOP)
    # Copies of each thread, more of them where fewer adjacent channels can be copied at once.
    per_row = tile.BLOCK_K / operands.vector / (32 * tile.num_warps)
    side, weight = tile.BLOCK_M * per_row, tile.BLOCK_N * per_row
    if operator == "wgrad":
        return multiply + LOOP + PER_WGRAD_COPY * (side + weight)
    return multiply + LOOP + PER_SIDE_COPY * side + PER_WEIGHT_COPY * weight


def partial_bytes(tile: Tile, geometry: ConvGeometry, operator: Operator) -> int:
    """Of wgrad's workspace, which is written and read once."""
    if operator != "wgrad" or tile.SPLIT_K == 1:
        return 0
    M, N, _, G = geometry.gemm(operator)
    return 4 * tile.SPLIT_K * M * N * G
