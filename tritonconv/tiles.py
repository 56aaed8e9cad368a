"""Every block size, warp count and stage count in the repository, and how one is chosen."""

from dataclasses import astuple, replace
from functools import lru_cache
from itertools import product

from tritonconv import measured
from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.model import expected
from tritonconv.tile import INTERPRETER, Device, Operands, Tile

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
_TILED = [
    *((128, 256, 128, 8, 4), (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 4, 4)),
    *((128, 128, 128, 4, 3), (256, 64, 128, 4, 2), (128, 64, 128, 4, 2), (64, 128, 128, 4, 3), (64, 64, 128, 4, 4)),
]
# Where the addresses of results that are stored one by one would spill.
_TILED_FLOAT32_SCATTERED = [row for row in _TILED if row[:2] != (256, 64)]
_TILED_WGRAD = [
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
    """Every tile that `pick` may choose for such operands on some device: those below, and those of the tables."""
    found = [replace(Tile(*blocks), SPLIT_K=1) for blocks in measured.everywhere(operator, *astuple(operands))]
    found = [in_shape(tile, shapes(pixels_of(tile, operator), operator)[0]) if tile.tiled else tile for tile in found]
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
        tiles = [Tile(*row) for row in _TILED_WGRAD] if operands.itemsize == 2 else []
    else:
        rows = _TILED if operands.itemsize == 2 or operands.whole_stores else _TILED_FLOAT32_SCATTERED
        tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]
    return [in_shape(tile, shapes(pixels_of(tile, operator), operator)[0]) for tile in tiles]


# Images, rows and columns of a block of pixels.
Shape = tuple[int, int, int]


def pixels_of(tile: Tile, operator: Operator) -> int:
    """How many pixels a block of `tile` has."""
    return tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M


def shapes(pixels: int, operator: Operator) -> list[Shape]:
    """How a block of so many pixels may lie: in one image, in squares of some, in a pixel of many, in a line. Of wgrad
    only as a line of a row or of images, and in `whole_rows`, if there are such: others would pass through registers on
    their way to the tensor cores.
    """
    if operator == "wgrad":
        return [(1, 1, pixels), (pixels, 1, 1)]
    side = 1
    while 4 * side * side <= pixels:
        side *= 2
    squares = [(pixels // side**2, side, side) for side in (16, 8, 4, 2, 1) if side**2 <= pixels]
    return list(dict.fromkeys([(1, side, pixels // side), *squares, (1, 1, pixels)]))


def whole_rows(pixels: int, geometry: ConvGeometry) -> list[Shape]:
    """So many pixels as whole rows of an image's positions, or of several images', if they can be: none overhangs."""
    rows = pixels // geometry.Q
    if rows < 2 or pixels % geometry.Q or (geometry.P % rows and rows % geometry.P):
        return []
    return [(1, rows, geometry.Q) if rows <= geometry.P else (rows // geometry.P, geometry.P, geometry.Q)]


def in_shape(tile: Tile, shape: Shape) -> Tile:
    """The tile with its pixels in blocks of that shape."""
    B, H, W = shape
    return replace(tile, BLOCK_B=B, BLOCK_H=H, BLOCK_W=W)


def shaped(tile: Tile, geometry: ConvGeometry, operator: Operator) -> Tile:
    """The tile with its pixels, if they lie in blocks, in the shape that covers those of `geometry` with the fewest,
    where none strains the hardware.
    """
    if not tile.tiled:
        return tile
    found = [in_shape(tile, shape) for shape in shapes(pixels_of(tile, operator), operator)]
    if operator == "wgrad":
        found = [in_shape(tile, shape) for shape in whole_rows(tile.BLOCK_K, geometry)] + found
    return min(found, key=lambda tile: tile.pixel_blocks(geometry, operator) * tile.strain(geometry, operator))


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


def least(operator: Operator, itemsize: int, varies: str) -> Tile:
    """The tile that fits every device, for any operands: the last with tensor cores that is shipped for those without
    alignment.
    """
    if "p" not in varies:
        return Tile(64, 16, 64 // itemsize, num_warps=8, num_stages=2)
    M, N, K, warps, stages = (_LOCAL_WGRAD_NARROW if operator == "wgrad" else _LOCAL_UNALIGNED)[-1]
    return Tile(M, N, max(16, K // itemsize), warps, stages)


def legal(operator: Operator, operands: Operands, device: Device) -> list[Tile]:
    """Every tile that fits: what may be tuned. Whether registers suffice, only the compiler knows."""
    if "p" in operands.varies:
        few = {tile for tile in designed(operator, operands) if images(tile, operator) <= FEW}
        grid = product((16, 32, 64, 128), (16, 32, 64, 128), (16, 32, 64), (1, 2, 4, 8), (2, 3, 4))
        found = [*sorted(few, key=astuple), *(Tile(*blocks) for blocks in grid)]
        return runnable(found, operator, operands, device)
    grid = product((64, 128, 256), (16, 32, 64, 128, 256), (64, 128), (4, 8), (2, 3, 4))
    tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in grid]
    if designed_for_blocks(operator, operands):
        wide = [tile for tile in tiles if tile.BLOCK_N >= 64]
        tiles += [in_shape(tile, shapes(pixels_of(tile, operator), operator)[0]) for tile in wide]
    return runnable(tiles, operator, operands, device)


def fits(tile: Tile, operator: Operator, itemsize: int, device: Device) -> bool:
    """Whether `tile` may run: powers of two, as large as tensor cores want where they are used, shared memory,
    registers, and hardware that copies blocks, if it has such.

    On sm_90, sm_100 and sm_103 a thread may hold 128 accumulators. Elsewhere operands and accumulators share its 255
    registers, and so they do in wgrad on sm_100, where sums on their way from tensor memory meet those of the bias.
    """
    blocks = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K)
    few = images(tile, operator) <= FEW
    if any(block < (1 if few else 16) or block & (block - 1) for block in blocks):
        return False
    if device == INTERPRETER:
        return True
    if tile.tiled and device.capability < COPIES_BLOCKS:
        return False
    # Without tensor cores, products wait to be added up.
    accumulators = tile.BLOCK_M * tile.BLOCK_N * (tile.BLOCK_K if few else 1) // (32 * tile.num_warps)
    most = 128 if device.capability in ((90,) if operator == "wgrad" else (90, 100, 103)) else 64
    return accumulators <= most and tile.shared_bytes(operator, itemsize, device.capability) <= device.shared_bytes


# The least compute capability whose hardware copies whole blocks between global and shared memory (TMA).
COPIES_BLOCKS = 90


def available(operator: Operator, operands: Operands, device: Device) -> list[Tile]:
    """The shipped tiles that fit, with the two stages that AMD's pipeliner wants."""
    return runnable(shipped(operator, operands), operator, operands, device)


def runnable(tiles: list[Tile], operator: Operator, operands: Operands, device: Device) -> list[Tile]:
    adapted = [replace(tile, num_stages=2) if device.capability == 0 else tile for tile in tiles]
    return [tile for tile in adapted if fits(tile, operator, operands.itemsize, device)]


@lru_cache(maxsize=4096)
def pick(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> Tile:
    """The tile for a problem, the same on every rank: the measured one, or else what the model expects to be fastest.

    On an unknown device the tiles that fit every one are left, so there always is one.
    """
    if device == INTERPRETER:
        return small(geometry, operator, operands)
    tiles = suited(available(operator, operands, device), geometry, operator, operands, device)
    known = measured_for(geometry, operator, operands, device)
    if known and replace(known, SPLIT_K=1) in tiles:
        return known
    return first(tiles, geometry, operator, operands, device)


def measured_for(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> Tile | None:
    """What was measured to be best for such a problem on such a device, if that was measured."""
    known = measured.table(device.name).get(measured.key(geometry, operator, *astuple(operands)))
    return shaped(Tile(*known), geometry, operator) if known else None


def small(geometry: ConvGeometry, operator: Operator, operands: Operands) -> Tile:
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
    return shaped(replace(tile, BLOCK_B=1), geometry, operator)


def suited(
    tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device
) -> list[Tile]:
    """Those of the tiles that may run for such a problem, in the shape for it: of so many images, or for fprop and
    dgrad those that add up its products `in_order`.
    """
    if geometry.per_location:
        return for_images(tiles, geometry, operator)
    if operator != "wgrad":
        wanted = order(geometry, operator, operands, device)
        tiles = [tile for tile in tiles if in_order(tile) == wanted]
    return [shaped(tile, geometry, operator) for tile in tiles]


def in_order(tile: Tile) -> tuple[int, bool]:
    """What of a tile decides in which order fprop and dgrad add up a result's products."""
    return tile.BLOCK_K, tile.tiled


def order(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> tuple[int, bool]:
    """In which order fprop and dgrad add up products for such a problem, whatever its batch, and whatever memory format
    its result has: as the model wants it for a usual one.

    So a batch gives the same bits as its images do one by one, though another tile computes them, and though an image
    that is cut out may no longer be channels_last.
    """
    usual = replace(geometry, B=USUAL_BATCH)
    if geometry.pointwise:  # and may be in one line, where no batch is seen
        usual = replace(geometry, B=1, H=1, P=1, W=USUAL_PIXELS, Q=USUAL_PIXELS)
    operands = replace(operands, whole_stores=True)
    tiles = runnable(designed(operator, operands), operator, operands, device)
    tiles = [shaped(tile, usual, operator) for tile in tiles]
    return in_order(first(tiles, usual, operator, operands, device))


def first(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> Tile:
    """The one of `tiles` that is `expected` to finish first; the larger one where the model sees no difference."""
    return min(
        with_splits(tiles, operator, geometry, operands, device),
        key=lambda tile: (
            expected(tile, geometry, operator, operands, device).cycles,
            -tile.BLOCK_M * tile.BLOCK_N,
            tile.SPLIT_K,
        ),
    )


def with_splits(
    tiles: list[Tile], operator: Operator, geometry: ConvGeometry, operands: Operands, device: Device
) -> list[Tile]:
    """Each tile, for wgrad with every split of the reduction that is worth considering."""
    if operator != "wgrad":
        return tiles
    return [replace(tile, SPLIT_K=n) for tile in tiles for n in splits(geometry, tile, operands, device)]


def splits(geometry: ConvGeometry, tile: Tile, operands: Operands, device: Device) -> list[int]:
    """Into how many parts wgrad's reduction may be cut: one, or so many that one, two or four waves fill the device.

    Not so many that the partial sums, written and read in float32, would be more than a tenth of the bytes that
    programs read of the operands, and at least LEAST_STEPS remain to each.
    """
    programs = max(1, tile.blocks(geometry, "wgrad"))
    read = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
    least = max(LEAST_STEPS, ceildiv(10 * 2 * 4 * tile.BLOCK_M * tile.BLOCK_N, read))
    most = max(1, tile.steps(geometry, "wgrad") // least)
    return sorted({min(most, max(1, waves * device.multiprocessors // programs)) for waves in (0, 1, 2, 4)})


# The batch by which the order of a sum is chosen: what a GPU is trained with; and its pixels where all lie in one line.
USUAL_BATCH, USUAL_PIXELS = 128, 128 * 28 * 28
# Steps below which a part of wgrad's reduction would not repay its start and its partial sums.
LEAST_STEPS = 16


def power_of_two(extent: int) -> int:
    """The smallest power of two that covers `extent`, and 16 at least."""
    return max(16, 1 << max(0, extent - 1).bit_length())
