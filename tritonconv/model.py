"""How long a tile is expected to take, by counting what a processor has to do: for choosing tiles, not for reporting.

Nothing here was fitted to a measurement of these kernels. What would have to be measured is named as an estimate.
"""

from dataclasses import dataclass
from math import ceil

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tile import Device, Operands, Tile


@dataclass(frozen=True)
class Rates:
    """What one multiprocessor does in one cycle: products, by how they are formed, and bytes, by where they come from.

    `copied_products` says that the products' operands may stay in shared memory (WGMMA, tcgen05), and need no
    instructions of their own to get there.
    """

    half: int
    tf32: int
    float32: int
    l2_bytes: float
    memory_bytes: float
    copied_products: bool = False


# Products: the makers' architecture papers, as in bench/lowering/chips.py. L2 and memory: bandwidth by multiprocessors
# and cycles. A100: 5,120 bytes of L2 per cycle by its paper, 2.0 TB/s. AD102: 5 TB/s of L2 (measured by Chips and
# Cheese), 1.0 TB/s. H100: 5.7 TB/s of L2 (measured by the same), and between its 3.4 TB/s of memory and the H200's 4.8.
# B200: 8 TB/s of memory, and L2 taken to have grown with it. MI300X: 17 TB/s of Infinity Cache, 5.3 TB/s.
RATES = {
    80: Rates(1024, 512, 64, 47, 13),
    89: Rates(512, 256, 128, 15, 3),
    90: Rates(2048, 1024, 128, 24, 16, copied_products=True),
    100: Rates(4096, 2048, 128, 32, 29, copied_products=True),
    120: Rates(512, 256, 128, 20, 4),
    0: Rates(1024, 512, 128, 27, 8),
}
# Instructions that a multiprocessor starts in a cycle, one for each of its four schedulers.
ISSUES = 4
# Instructions of each warp in one step, as `python -m bench lowering` counts them on sm_90: of a loop, and for each
# 16 bytes that a thread copies of a side, with its mask, and of a weight. Tiled loops copy by one thread.
LOOP, TILED_LOOP, TILED_WGRAD_LOOP = 45, 85, 105
PER_SIDE_COPY, PER_WEIGHT_COPY, PER_WGRAD_COPY = 11, 3, 22
# And of a warp whose operands go through registers, for each 16 x 8 x 16 products: the product, and half a load.
PER_PRODUCT = 1.5
# Cycles that a program takes beside its steps (its place, its first copies, its result), those until the copies of one
# more loop arrive, and those of starting a second kernel. Estimates.
PER_PROGRAM, PER_LOOP, PER_LAUNCH = 3_000, 1_000, 4_000
# How much of the time it could be multiplying a step's product takes in a loop that never waits: an estimate.
BUSY = 0.85


def rates_of(device: Device) -> Rates:
    """Those of the device's architecture, or of the one before it."""
    return RATES[max(capability for capability in RATES if capability <= max(device.capability, 0))]


def expected(tile: Tile, geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> float:
    """The cycles that `operator` would take with `tile`: of the busiest multiprocessor, or of the memory they share."""
    rates = rates_of(device)
    programs = tile.blocks(geometry, operator) * tile.SPLIT_K
    steps = tile.steps(geometry, operator) / (geometry.phases if operator == "dgrad" else tile.SPLIT_K)
    each = steps * cycles_of_step(tile, operator, operands, rates)
    # The result on its way out, and what a program waits for, which others on the same multiprocessor need not.
    stored = tile.BLOCK_M * tile.BLOCK_N * (4 if operator == "wgrad" else operands.itemsize)
    each += stored * (1 if operands.whole_stores else 2) / rates.l2_bytes
    waits = PER_PROGRAM + PER_LOOP * (loops(tile, geometry, operator) - 1)
    together = max(1, device.shared_bytes // tile.shared_bytes(operator, operands.itemsize))
    most = ceil(programs / device.multiprocessors)
    busiest = most * each + ceil(most / together) * waits
    traffic = geometry.minimal_bytes(operands.itemsize) + 2 * partial_bytes(tile, geometry, operator)
    second = PER_LAUNCH if operator == "wgrad" and tile.SPLIT_K > 1 else 0
    return max(busiest, traffic / rates.memory_bytes / device.multiprocessors) + second


def cycles_of_step(tile: Tile, operator: Operator, operands: Operands, rates: Rates) -> float:
    """Of one program that has its multiprocessor to itself: the most of multiplying, copying from L2 and issuing."""
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K
    per_cycle = rates.float32 if operands.exact else rates.half if operands.itemsize == 2 else rates.tf32
    copied = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    issued = instructions(tile, operator, operands, rates) * tile.num_warps
    return max(products / per_cycle / BUSY, copied / rates.l2_bytes, issued / ISSUES)


def instructions(tile: Tile, operator: Operator, operands: Operands, rates: Rates) -> float:
    """Of each warp, in one step."""
    products = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K / tile.num_warps
    if operands.exact:
        multiply = products / 32
    else:
        multiply = 0 if rates.copied_products else PER_PRODUCT * products / (16 * 8 * 32 // operands.itemsize)
    if tile.tiled:
        return multiply + (TILED_WGRAD_LOOP if operator == "wgrad" else TILED_LOOP)
    # Copies of each thread, more of them where fewer adjacent channels can be copied at once.
    per_row = tile.BLOCK_K / operands.vector / (32 * tile.num_warps)
    side, weight = tile.BLOCK_M * per_row, tile.BLOCK_N * per_row
    if operator == "wgrad":
        return multiply + LOOP + PER_WGRAD_COPY * (side + weight)
    return multiply + LOOP + PER_SIDE_COPY * side + PER_WEIGHT_COPY * weight


def loops(tile: Tile, geometry: ConvGeometry, operator: Operator) -> int:
    """How many a program runs through, one after the other."""
    if operator != "fprop" or not tile.tiled:
        return 1
    period_h, period_w = geometry.periods
    return min(period_h, geometry.R) * min(period_w, geometry.S)


def partial_bytes(tile: Tile, geometry: ConvGeometry, operator: Operator) -> int:
    """Of wgrad's workspace, which is written and read once."""
    if operator != "wgrad" or tile.SPLIT_K == 1:
        return 0
    M, N, _, G = geometry.gemm(operator)
    return 4 * tile.SPLIT_K * M * N * G
