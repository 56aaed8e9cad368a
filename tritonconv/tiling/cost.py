"""The cost model: the cycles that a launch is expected to take with a tile. It chooses tiles, and is not for reports.

The model counts work, and divides it by the rates of one multiprocessor (`gpu.Rates`), as a roofline does. All times
are in clock cycles. With n programs on a multiprocessor at the same time:

    step    = max(n * products, n * L2, n * instructions, waiting)       one step of the loop (`cycles_of_step`)
    block   = steps * step + n * bytes stored / L2 rate + a constant     one block of results (`cycles_of_block`)
    working = the sum of `block` over the waves + a start-up             the busiest multiprocessor (`expected`)
    moving  = bytes of all tensors / DRAM rate / multiprocessors         the memory of the GPU (`expected`)
    cycles  = the longer of working and moving + APART * the shorter + PER_LAUNCH if SPLIT_K > 1

- products: multiply-adds of a step / (multiply-adds per cycle at the peak for the dtype) / BUSY.
- L2: bytes of both operands of a step / (bytes per cycle from the L2 cache) * `Tile.tlb_slowdown`.
- instructions: those that all warps of a program issue in a step / ISSUES per cycle.
- waiting: PER_STEP, the latency of a step. Programs wait at the same time, so it is not multiplied by n.
- start-up: until programs begin to multiply. It depends on how the launch gets its operands (`start_up`).
- waves: in each wave, each multiprocessor computes n blocks, where n is its occupancy (`Tile.occupancy`). The last wave
  may have fewer.
- moving: the DRAM is read and written while programs work. It moves each tensor once. If SPLIT_K > 1, it moves the
  weight's partial sums twice.

The constants that are called fitted were fitted to the 800 times in bench/results/h200-tiles.json. These are tiles of
dense layers on an H200 in bfloat16, with descriptors that programs build. The model is off by 17 % in the root mean
square, if 1.74 cycles count as a nanosecond, which is fitted too. The tile that is picked by it takes 3.7 % longer
than the fastest one in the geometric mean, and 28 % at worst. For other GPUs the constants are estimates.
"""

from math import ceil
from typing import NamedTuple

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import ISSUES, Architecture, Gpu
from tritonconv.tiling.descriptors import host_describes
from tritonconv.tiling.tile import Operands, Tile

# Instructions of a warp in one step of the loop, as `python -m bench lowering` counts them on sm_90. The loops are
# those that gather pixels, that use TMA, and that use TMA in wgrad. A warp counts as 32 threads on every GPU, AMD's
# included.
LOOP, TMA_LOOP, TMA_WGRAD_LOOP = 45, 95, 90
# And for each load of at most 16 bytes by its threads: of a side with its mask; of a weight; of either side in wgrad.
# The last is fitted, because other instructions wait for these loads. With TMA, one thread copies for all.
PER_SIDE_COPY, PER_WEIGHT_COPY, PER_WGRAD_COPY = 11, 3, 58
# And for each 16 x 8 x 16 products of a warp in 16 bits, if operands pass through registers: a product and half a load.
PER_PRODUCT = 1.5
# Cycles, fitted. PER_BLOCK: of a block beside its steps, if its program computes no other. PER_TILE: the same in a
# persistent kernel, whose programs compute several. PER_STEP: that a step waits for the one before. PER_LAUNCH: of
# starting a second kernel, which adds up the partial sums.
PER_BLOCK, PER_TILE, PER_STEP, PER_LAUNCH = 3_400, 1_750, 355, 6_300
# The share of the peak rate of products that a loop reaches if it waits for nothing. Fitted.
BUSY = 0.78
# The share of the shorter of two times that does not overlap with the longer: an estimate.
APART = 0.1


class StartUp(NamedTuple):
    """Cycles until the programs of a launch begin to multiply, for each way in which it gets its operands.

    - `gather`: programs load pixels from addresses that they compute.
    - `own_descriptors`: programs build TMA descriptors.
    - `host_descriptors`: the host makes TMA descriptors and passes them as arguments of the kernel.
    """

    gather: int
    own_descriptors: int
    host_descriptors: int


# The first two are fitted. They are equal, because the times do not tell them apart: 70 of the 800 are of tiles that
# gather, all of wgrad. With a number for each, the error falls from 16.8 to 16.7 %, and for layers that the fit has not
# seen it grows.
# The third is the second less 5,000 cycles: what bench/results/h200-descriptors.json shows, rounded to hundreds. With
# descriptors of the host, fprop of three layers took 2.9, 3.0 and 0.7 microseconds less. Errors count relative to the
# time, as above, so the two short layers decide. wgrad was not measured. Its programs build descriptors in every wave,
# but here the host saves time in the first wave only.
START_UP = StartUp(gather=12_000, own_descriptors=12_000, host_descriptors=7_000)


class Estimate(NamedTuple):
    """The cycles that a launch is expected to take, and its bottleneck.

    `limit` is the bottleneck: "products", "L2", "instructions", "memory" or "waiting".
    """

    cycles: float
    limit: str


def expected(tile: Tile, geometry: ConvGeometry, operator: Operator, operands: Operands, gpu: Gpu) -> Estimate:
    """Return the cycles that a launch of `operator` with `tile` is expected to take, and its bottleneck.

    The longer of two times counts: that of the busiest multiprocessor, and that of the memory which all of them share.
    """
    architecture = gpu.architecture
    blocks = tile.blocks(geometry, operator) * tile.SPLIT_K
    # Full waves, each with as many blocks as run at the same time, and the blocks that are left for the last wave.
    together = tile.occupancy(operator, operands.itemsize, gpu)
    waves, left = divmod(blocks, gpu.multiprocessors * together)
    last = ceil(left / gpu.multiprocessors)
    step = cycles_of_step(tile, geometry, operator, operands, architecture)
    crowd = together if waves else last
    limit = max(step, key=lambda name: step[name] * (1 if name == "waiting" else crowd))
    working = waves * cycles_of_block(tile, geometry, operator, operands, architecture, together)
    if last:
        working += cycles_of_block(tile, geometry, operator, operands, architecture, last)
    working += start_up(tile, geometry, operator, architecture)
    partials = partial_bytes(tile, geometry, operator)
    moved = geometry.minimal_bytes(operands.itemsize) + 2 * partials
    moving = moved / architecture.rates.bandwidth.memory / gpu.multiprocessors
    shorter, longer = sorted((moving, working))
    return Estimate(longer + APART * shorter + (PER_LAUNCH if partials else 0), "memory" if moving == longer else limit)


def start_up(tile: Tile, geometry: ConvGeometry, operator: Operator, architecture: Architecture) -> int:
    """Return the cycles until programs begin to multiply: that of START_UP for how the launch gets its operands."""
    if not tile.uses_tma:
        return START_UP.gather
    by_host = host_describes(tile, geometry, operator, architecture)
    return START_UP.host_descriptors if by_host else START_UP.own_descriptors


def cycles_of_block(
    tile: Tile,
    geometry: ConvGeometry,
    operator: Operator,
    operands: Operands,
    architecture: Architecture,
    together: int,
) -> float:
    """Return the cycles for one block of results while `together` programs run on its multiprocessor.

    These programs share its tensor cores, bandwidth and schedulers, but each waits while the others work. Results are
    stored at the bandwidth of the L2 cache, which takes twice as long by single elements. For dgrad, a block has the
    steps of one phase of the stride on average.
    """
    steps = tile.steps(geometry, operator) / (geometry.phases if operator == "dgrad" else tile.SPLIT_K)
    step = cycles_of_step(tile, geometry, operator, operands, architecture)
    slowest = max(cycles * (1 if name == "waiting" else together) for name, cycles in step.items())
    stored = tile.BLOCK_M * tile.BLOCK_N * (4 if operator == "wgrad" else operands.itemsize)
    result = together * stored * (1 if operands.whole_stores else 2) / architecture.rates.bandwidth.l2
    return steps * slowest + result + (PER_TILE if tile.uses_tma and operator != "wgrad" else PER_BLOCK)


def cycles_of_step(
    tile: Tile, geometry: ConvGeometry, operator: Operator, operands: Operands, architecture: Architecture
) -> dict[str, float]:
    """Return a dict of the cycles of one step by resource, for a program that has a multiprocessor to itself.

    The resources are the products, L2 and instructions that the module's docstring explains, and the waiting of one
    step for the one before. This waiting does not depend on what else runs.
    """
    (half, tf32, float32), bandwidth = architecture.rates
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K
    per_cycle = float32 if operands.exact else half if operands.itemsize == 2 else tf32
    copied = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    issued = instructions(tile, operator, operands, architecture) * tile.num_warps
    return {
        "products": products / per_cycle / BUSY,
        "L2": copied / bandwidth.l2 * tile.tlb_slowdown(geometry, operator),
        "instructions": issued / ISSUES,
        "waiting": PER_STEP,
    }


def instructions(tile: Tile, operator: Operator, operands: Operands, architecture: Architecture) -> float:
    """Return how many instructions each warp issues in one step: for products, for the loop itself and for copies."""
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K / tile.num_warps
    if operands.exact:
        multiply = products / 32
    else:
        loaded = PER_PRODUCT * products / (16 * 8 * 32 // operands.itemsize)
        multiply = 0 if architecture.products_from_shared else loaded
    if tile.uses_tma:
        return multiply + (TMA_WGRAD_LOOP if operator == "wgrad" else TMA_LOOP)
    # Loads of each thread for one row of an operand. There are more if a load takes fewer adjacent channels.
    per_row = tile.BLOCK_K / operands.vector / (32 * tile.num_warps)
    side, weight = tile.BLOCK_M * per_row, tile.BLOCK_N * per_row
    if operator == "wgrad":
        return multiply + LOOP + PER_WGRAD_COPY * (side + weight)
    return multiply + LOOP + PER_SIDE_COPY * side + PER_WEIGHT_COPY * weight


def partial_bytes(tile: Tile, geometry: ConvGeometry, operator: Operator) -> int:
    """Return the size in bytes of wgrad's partial sums of the weight, in float32, if SPLIT_K is above 1. Otherwise 0.

    The caller counts them twice, because they are written once and read once. The partial sums of the bias do not
    count. Nor do those of the weight without a split. Then the gather kernel has them if the weight does not vary, and
    any kernel if it is not channels_last.
    """
    if operator != "wgrad" or tile.SPLIT_K == 1:
        return 0
    M, N, _, G = geometry.gemm(operator)
    return 4 * tile.SPLIT_K * M * N * G
