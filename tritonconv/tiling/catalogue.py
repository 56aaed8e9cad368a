"""The tiles that ship with the package, and the stages in which one of them is chosen for a problem.

1. Designed: a row of the tables below lists the tile for such operands (`designed`). The rows are a selection.
   `fits.tuning_grid` has a full grid of tiles, which only `python -m bench tune --grid` tries.
2. Shipped: the tile is designed, or it was measured to be fastest for some problem with such operands, on any GPU
   (`shipped`).
3. Available: the tile is shipped, and the GPU has the shared memory, registers and TMA for it (`fits.available`, which
   asks `fits.fits`).
4. Suited: the tile is available, and may run this problem (`pick.suited`). For fprop and dgrad it must add up products
   in the usual order, so that the batch size changes no bit of a result. For a weight of each location it must take the
   right number of images at once. In this stage TMA tiles get their block shape.
5. Picked: `pick.pick` returns the suited tile that was measured to be fastest on this GPU or one like it
   (`pick.measured_for`). If none was, it returns the one that is fastest by the cost model (`pick.fastest`,
   `cost.expected`). SPLIT_K belongs to this stage: a measured tile brings its own, and the cost model chooses one.

There are two exceptions. Triton's interpreter runs `pick.interpreter_tile`. What has failed in this process is not
tried again: `launch/tile_choice.py` then picks without TMA, or takes `smallest_tile`.
"""

from dataclasses import astuple, replace

from tritonconv.geometry import Operator
from tritonconv.tiling import measured
from tritonconv.tiling.block_shapes import with_some_shape
from tritonconv.tiling.tile import Operands, Tile

# Each row: BLOCK_M, BLOCK_N, bytes of K per step, warps, pipeline stages. 128 bytes are one full swizzle of shared
# memory.
_HUGE = [(128, 256, 128, 8, 3)]
_WIDE = [(128, 128, 128, 8, 3), (128, 64, 128, 4, 3), (64, 128, 128, 8, 3)]
_NARROW = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (64, 32, 64, 4, 4), (128, 16, 64, 4, 4)]
# Without tensor cores (_EXACT) the operands pass through registers. Without alignment their addresses do so, too.
# Larger tiles than these spill registers.
_EXACT = [(128, 64, 64, 4, 3), (64, 64, 64, 8, 4), (64, 32, 64, 8, 4), (128, 16, 64, 4, 4)]
_UNALIGNED = [(64, 64, 64, 8, 2), (64, 32, 64, 8, 2), (64, 16, 64, 8, 2)]
_EXACT_UNALIGNED = [(64, 32, 64, 8, 3), (64, 16, 64, 8, 2)]
# _WIDE for float32, which takes as many registers for half as many products: with 4 warps, 128x64 would spill.
_WIDE_FLOAT32 = [(128, 128, 128, 8, 3), (128, 64, 128, 8, 3), (64, 128, 128, 8, 3)]
# _NARROW for wgrad, which also holds counters and the bias's sum in registers: with 4 warps, 64x64 and 64x32 would
# spill.
_NARROW_WGRAD = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 8, 4), (64, 32, 64, 8, 4), (128, 16, 64, 4, 4)]
# For TMA. Each row of _TMA: pixels, channels, bytes of K per step, warps, stages.
# Each row of _TMA_WGRAD: filters, channels, pixels per step, warps, stages. The pixels of a step are a line or whole
# rows.
_TMA = [
    *((128, 256, 128, 8, 4), (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 4, 4)),
    *((128, 128, 128, 4, 3), (256, 64, 128, 4, 2), (128, 64, 128, 4, 2), (64, 128, 128, 4, 3), (64, 64, 128, 4, 4)),
]
# For float32 results that are stored one by one: with 256x64, their addresses would spill.
_TMA_FLOAT32_SCATTERED = [row for row in _TMA if row[:2] != (256, 64)]
_TMA_WGRAD = [
    *((128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 64, 4, 4), (128, 128, 64, 4, 3), (128, 64, 64, 4, 4)),
    *((64, 128, 64, 4, 4), (64, 64, 64, 4, 4), (128, 256, 32, 8, 6), (256, 128, 32, 8, 6), (128, 128, 32, 4, 6)),
    *((64, 64, 32, 4, 6), (128, 256, 16, 8, 8), (128, 128, 16, 4, 8)),
]
# For a weight of each location. Each location is a matrix product of its own, whose rows are the images; in wgrad the
# reduction runs over the images. The tables _LOCAL... are for more than FEW images.
# The tables _FEW_IMAGES... are for at most FEW, have K in elements, and multiply without tensor cores.
_LOCAL = [(128, 64, 128, 8, 3), (128, 16, 32, 1, 4), (64, 32, 64, 4, 4), (16, 64, 128, 4, 4), (16, 16, 32, 1, 4)]
_LOCAL_EXACT = [(64, 32, 64, 4, 2), (128, 16, 64, 8, 3), (16, 16, 64, 2, 2)]
_LOCAL_UNALIGNED = [(64, 32, 64, 8, 2), (16, 16, 64, 2, 2)]
_LOCAL_WGRAD = [(64, 128, 64, 4, 3), (16, 128, 64, 4, 3), (64, 64, 64, 4, 3), (16, 64, 64, 4, 3)]
_LOCAL_WGRAD_NARROW = [(32, 64, 64, 4, 2), (16, 64, 64, 8, 2)]
_FEW_IMAGES = [
    *((8, 16, 16, 1, 4), (8, 32, 32, 4, 4)),
    *((4, 16, 16, 1, 4), (4, 64, 32, 4, 4)),
    *((1, 16, 16, 1, 4), (1, 64, 64, 4, 4)),
]
_FEW_IMAGES_WGRAD = [(16, 128, 1, 4, 2), (64, 128, 1, 8, 2)]
# The most images that are multiplied without tensor cores. Tiles for tensor cores have at least 16 rows.
FEW = 8


def shipped(operator: Operator, operands: Operands) -> list[Tile]:
    """Return the shipped tiles for these operands: those designed, then those that the table of any GPU has for them.

    Each tile is there once, with a SPLIT_K of 1. TMA tiles have some block shape. `pick` chooses no other,
    with two exceptions: the interpreter's tile, and the `num_stages` of an architecture that accepts only one.
    """
    found = [replace(Tile(*blocks), SPLIT_K=1) for blocks in measured.everywhere(operator, *astuple(operands))]
    found = [with_some_shape(tile, operator) if tile.uses_tma else tile for tile in found]
    return list(dict.fromkeys(designed(operator, operands) + found))


def designed(operator: Operator, operands: Operands) -> list[Tile]:
    """Return the designed tiles for these operands: the rows of the tables above that are meant for them.

    Tiles for TMA come first, if there are any.
    """
    whole_loads = operands.vector * operands.itemsize == 16
    if "p" in operands.varies:
        return designed_for_locations(operator, operands, whole_loads)
    wide = _WIDE if operands.itemsize == 2 else _WIDE_FLOAT32
    narrow = _NARROW_WGRAD if operator == "wgrad" else _NARROW
    if operands.exact:
        rows = _EXACT if whole_loads else _EXACT_UNALIGNED
    elif operands.vector == 1:
        rows = _UNALIGNED
    elif not whole_loads:
        rows = narrow[1:]
    else:
        # With a weight per sample, wgrad has no registers left for the address of a sample.
        huge = operands.itemsize == 2 and operands.whole_stores and not (operator == "wgrad" and operands.varies)
        rows = (_HUGE if huge else []) + wide + narrow
    gathered = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]
    return designed_for_tma(operator, operands) + gathered


def designed_for_tma(operator: Operator, operands: Operands) -> list[Tile]:
    """Return the designed tiles for TMA, each with some block shape.

    There are none if TMA can not copy the operands, if tensor cores do not multiply them, or if the weight varies. For
    wgrad there are none in float32, either.
    """
    if not operands.tma_possible or operands.exact or operands.varies:
        return []
    if operator == "wgrad":
        # Channels are adjacent and wgrad sums over pixels, so tensor cores must read both operands across rows. They
        # can do this in shared memory if operands have 16 bits. Wider operands pass through registers to be transposed.
        # There Triton 3.6 and 3.7 have a bug on sm_90: they overwrite what the tensor cores still read.
        tiles = [Tile(*row) for row in _TMA_WGRAD] if operands.itemsize == 2 else []
    else:
        rows = _TMA if operands.itemsize == 2 or operands.whole_stores else _TMA_FLOAT32_SCATTERED
        tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]
    return [with_some_shape(tile, operator) for tile in tiles]


def designed_for_locations(operator: Operator, operands: Operands, whole_loads: bool) -> list[Tile]:
    """Return the designed tiles for a weight of each location: for more than FEW images, then for at most FEW.

    `whole_loads` says that loads take 16 bytes.
    """
    if operator == "wgrad":
        rows, few = (_LOCAL_WGRAD if whole_loads and not operands.exact else _LOCAL_WGRAD_NARROW), _FEW_IMAGES_WGRAD
    else:
        whole = _LOCAL_EXACT if operands.exact else _LOCAL
        rows, few = whole if whole_loads else _LOCAL_UNALIGNED, _FEW_IMAGES
    # A step has at least 16 elements of K. In float32 these are enough bytes for two warps.
    many = [
        Tile(M, N, max(16, K // operands.itemsize), max(warps, operands.itemsize // 2), stages)
        for M, N, K, warps, stages in rows
    ]
    return [*many, *(Tile(*row) for row in few)]


def images(tile: Tile, operator: Operator) -> int:
    """Return how many images a tile takes at once if each location has a weight: BLOCK_K in wgrad, or else BLOCK_M."""
    return tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M


def smallest_tile(operator: Operator, itemsize: int, varies: str) -> Tile:
    """Return the tile that fits every GPU, for any operands of `itemsize` bytes and a weight that varies over `varies`.

    It is the last row of _UNALIGNED and of _EXACT_UNALIGNED. For a weight of each location it is the last row for more
    than FEW images without alignment.
    """
    if "p" not in varies:
        return Tile(64, 16, 64 // itemsize, num_warps=8, num_stages=2)
    M, N, K, warps, stages = (_LOCAL_WGRAD_NARROW if operator == "wgrad" else _LOCAL_UNALIGNED)[-1]
    return Tile(M, N, max(16, K // itemsize), warps, stages)
