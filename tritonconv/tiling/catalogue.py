"""Every block size, warp count and stage count in the repository."""

from dataclasses import astuple, replace

from tritonconv.geometry import Operator
from tritonconv.tiling import measured
from tritonconv.tiling.block_shapes import with_some_shape
from tritonconv.tiling.tile import Operands, Tile

# Rows of BLOCK_M, BLOCK_N, bytes of K per step, warps, stages. 128 bytes are one full swizzle of shared memory.
_HUGE = [(128, 256, 128, 8, 3)]
_WIDE = [(128, 128, 128, 8, 3), (128, 64, 128, 4, 3), (64, 128, 128, 8, 3)]
_NARROW = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (64, 32, 64, 4, 4), (128, 16, 64, 4, 4)]
# Without tensor cores the operands pass through registers, and without alignment their addresses do too: larger
# tiles than these spill.
_EXACT = [(128, 64, 64, 4, 3), (64, 64, 64, 8, 4), (64, 32, 64, 8, 4), (128, 16, 64, 4, 4)]
_UNALIGNED = [(64, 64, 64, 8, 2), (64, 32, 64, 8, 2), (64, 16, 64, 8, 2)]
_EXACT_UNALIGNED = [(64, 32, 64, 8, 3), (64, 16, 64, 8, 2)]
# Where float32, which takes as many registers for half as many products, would spill.
_WIDE_FLOAT32 = [(128, 128, 128, 8, 3), (128, 64, 128, 8, 3), (64, 128, 128, 8, 3)]
# And where wgrad would, which also holds counters and the bias's sum.
_NARROW_WGRAD = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 8, 4), (64, 32, 64, 8, 4), (128, 16, 64, 4, 4)]
# For whole blocks of pixels: how many pixels, channels, bytes of K, warps and stages; in wgrad filters, channels and
# pixels in each step, which are those of a line or of whole rows.
_TMA = [
    *((128, 256, 128, 8, 4), (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 4, 4)),
    *((128, 128, 128, 4, 3), (256, 64, 128, 4, 2), (128, 64, 128, 4, 2), (64, 128, 128, 4, 3), (64, 64, 128, 4, 4)),
]
# Where the addresses of results that are stored one by one would spill.
_TMA_FLOAT32_SCATTERED = [row for row in _TMA if row[:2] != (256, 64)]
_TMA_WGRAD = [
    *((128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 64, 4, 4), (128, 128, 64, 4, 3), (128, 64, 64, 4, 4)),
    *((64, 128, 64, 4, 4), (64, 64, 64, 4, 4), (128, 256, 32, 8, 6), (256, 128, 32, 8, 6), (128, 128, 32, 4, 6)),
    *((64, 64, 32, 4, 6), (128, 256, 16, 8, 8), (128, 128, 16, 4, 8)),
]
# Each location has a product of its own, whose rows, or in wgrad what it sums over, are the images. Tiles for more than
# FEW of them; and for at most FEW, with K in elements, those that multiply without tensor cores.
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
# The most images that are multiplied without tensor cores, whose tiles have 16 rows at least.
FEW = 8


def shipped(operator: Operator, operands: Operands) -> list[Tile]:
    """Every tile that `pick` may choose for such operands on some GPU: those below, and those of the tables."""
    found = [replace(Tile(*blocks), SPLIT_K=1) for blocks in measured.everywhere(operator, *astuple(operands))]
    found = [with_some_shape(tile, operator) if tile.uses_tma else tile for tile in found]
    return list(dict.fromkeys(designed(operator, operands) + found))


def designed(operator: Operator, operands: Operands) -> list[Tile]:
    """The tiles of the rows above for such operands."""
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
        # wgrad has no registers left for the address of a sample.
        huge = operands.itemsize == 2 and operands.whole_stores and not (operator == "wgrad" and operands.varies)
        rows = (_HUGE if huge else []) + wide + narrow
    gathered = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]
    return designed_for_blocks(operator, operands) + gathered


def designed_for_blocks(operator: Operator, operands: Operands) -> list[Tile]:
    """The tiles for whole blocks of pixels, of any shape, if operands can be copied so and tensor cores multiply."""
    if not operands.blocks or operands.exact or operands.varies:
        return []
    if operator == "wgrad":
        # Tensor cores read 16 bits across rows. What is to be turned round passes through registers, where Triton 3.6
        # and 3.7 overwrite on sm_90 what the tensor cores still read.
        tiles = [Tile(*row) for row in _TMA_WGRAD] if operands.itemsize == 2 else []
    else:
        rows = _TMA if operands.itemsize == 2 or operands.whole_stores else _TMA_FLOAT32_SCATTERED
        tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]
    return [with_some_shape(tile, operator) for tile in tiles]


def designed_for_locations(operator: Operator, operands: Operands, whole_loads: bool) -> list[Tile]:
    """The tiles for a weight of each location, with tensor cores and without."""
    if operator == "wgrad":
        rows, few = (_LOCAL_WGRAD if whole_loads and not operands.exact else _LOCAL_WGRAD_NARROW), _FEW_IMAGES_WGRAD
    else:
        whole = _LOCAL_EXACT if operands.exact else _LOCAL
        rows, few = whole if whole_loads else _LOCAL_UNALIGNED, _FEW_IMAGES
    # A step has 16 elements of K at least, which in float32 are bytes enough for two warps.
    many = [
        Tile(M, N, max(16, K // operands.itemsize), max(warps, operands.itemsize // 2), stages)
        for M, N, K, warps, stages in rows
    ]
    return [*many, *(Tile(*row) for row in few)]


def images(tile: Tile, operator: Operator) -> int:
    """How many images a tile for a weight of each location takes at once."""
    return tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M


def smallest_tile(operator: Operator, itemsize: int, varies: str) -> Tile:
    """The tile that fits every GPU, for any operands: the last with tensor cores that is shipped for those without
    alignment.
    """
    if "p" not in varies:
        return Tile(64, 16, 64 // itemsize, num_warps=8, num_stages=2)
    M, N, K, warps, stages = (_LOCAL_WGRAD_NARROW if operator == "wgrad" else _LOCAL_UNALIGNED)[-1]
    return Tile(M, N, max(16, K // itemsize), warps, stages)
