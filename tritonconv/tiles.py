"""Every block size, warp count and stage count in the repository, and how one is chosen."""

from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil

from tritonconv import measured
from tritonconv.geometry import ConvGeometry, Gemm, Operator, ceildiv

# Bytes of shared memory that one block may hold, by compute capability (CUDA C++ programming guide).
SHARED_BYTES = {80: 166_912, 86: 101_376, 87: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 103: 232_448}


@dataclass(frozen=True, slots=True)
class Device:
    """What choosing a tile needs to know of a processor.

    `capability` is 90 for sm_90 and 0 for AMD; `shared_bytes` is what one block may hold; `name` is what its maker
    calls it, by which its measured tiles are found.
    """

    capability: int
    multiprocessors: int
    shared_bytes: int
    name: str = ""

    @classmethod
    def of(cls, capability: int, multiprocessors: int, name: str = "") -> "Device":
        """The device with the shared memory that its capability is known for, or the least of any sm_80 and newer."""
        return cls(capability, multiprocessors, SHARED_BYTES.get(capability, 101_376 if capability else 65_536), name)


# Triton's interpreter spends its time per operation, not per element, and has no shared memory to run out of.
INTERPRETER = Device(capability=-1, multiprocessors=1, shared_bytes=1 << 40)


@dataclass(frozen=True, slots=True)
class Operands:
    """What choosing a tile needs to know of the operands.

    `itemsize` in bytes; loads take `vector` adjacent elements; stores take 16 bytes if `whole_stores`, else one
    element; `exact` keeps float32 off the tensor cores; `varies` has the letters that the weight varies over.
    """

    itemsize: int
    vector: int
    whole_stores: bool = True
    exact: bool = False
    varies: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One launch's block sizes: BLOCK_M x BLOCK_N results per program, BLOCK_K products per step and result.

    SPLIT_K programs share the steps of one block of results; only wgrad does that.
    """

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    GROUP_M: int = 8
    SPLIT_K: int = 1

    def __str__(self) -> str:
        """As 128x256x64w8s3: the blocks, warps and stages; and /4 if the reduction is split into 4 parts."""
        blocks = f"{self.BLOCK_M}x{self.BLOCK_N}x{self.BLOCK_K}w{self.num_warps}s{self.num_stages}"
        return blocks if self.SPLIT_K == 1 else f"{blocks}/{self.SPLIT_K}"

    def blocks(self, gemm: Gemm) -> int:
        """How many blocks the results of `gemm` make: programs, of which wgrad starts SPLIT_K for each."""
        return ceildiv(gemm.M, self.BLOCK_M) * ceildiv(gemm.N, self.BLOCK_N) * gemm.G

    def shared_bytes(self, operator: Operator, itemsize: int) -> int:
        """Bytes of shared memory, rounded up: the staged operands or the result on its way out, whichever is larger."""
        operands = self.num_stages * (self.BLOCK_M + self.BLOCK_N) * self.BLOCK_K * itemsize
        if operator == "wgrad":
            # Its results are float32, and each warp has a column of the bias's sum.
            return max(operands, self.BLOCK_M * self.BLOCK_N * 4) + self.num_warps * self.BLOCK_M * 4 + BESIDE_OPERANDS
        return max(operands, self.BLOCK_M * self.BLOCK_N * itemsize) + BESIDE_OPERANDS


# Room for row masks and barriers, in bytes; the tests compile every tile and see that it suffices.
BESIDE_OPERANDS = 1_024

# Rows of BLOCK_M, BLOCK_N, bytes of K per step, warps, stages. 128 bytes are one full swizzle of shared memory.
_HUGE = [(128, 256, 128, 8, 3)]
_WIDE = [(128, 128, 128, 8, 3), (128, 64, 128, 4, 3), (64, 128, 128, 8, 3)]
_NARROW = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (64, 32, 64, 4, 4), (128, 16, 64, 4, 4)]
# Without tensor cores the operands pass through registers, and without alignment their addresses do too: larger
# tiles than these spill.
_EXACT = [(128, 64, 64, 4, 3), (64, 64, 64, 8, 4), (64, 32, 64, 4, 4), (128, 16, 64, 4, 4)]
_UNALIGNED = [(64, 64, 64, 8, 2), (64, 32, 64, 8, 2), (64, 16, 64, 8, 2)]
_EXACT_UNALIGNED = [(64, 32, 64, 8, 3), (64, 16, 64, 8, 2)]
# Where wgrad, which also holds counters and the bias's sum, would spill.
_WIDE_WGRAD_FLOAT32 = [(128, 128, 128, 8, 3), (128, 64, 128, 8, 3), (64, 128, 128, 8, 3)]
_NARROW_WGRAD = [(256, 64, 64, 8, 4), (128, 64, 64, 4, 4), (64, 64, 64, 8, 4), (64, 32, 64, 8, 4), (128, 16, 64, 4, 4)]
# Each location has a product of its own, whose rows, or in wgrad what it sums over, are the images. Tiles for more than
# FEW of them; and for at most FEW, with K in elements, those that multiply without tensor cores.
_LOCAL = [(128, 64, 128, 8, 3), (128, 16, 32, 1, 4), (64, 32, 64, 4, 4), (16, 64, 128, 4, 4), (16, 16, 32, 1, 4)]
_LOCAL_EXACT = [(64, 32, 64, 4, 3), (128, 16, 64, 8, 3), (16, 16, 64, 2, 2)]
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
    return list(dict.fromkeys(designed(operator, operands) + found))


def designed(operator: Operator, operands: Operands) -> list[Tile]:
    """The tiles of the rows above for such operands."""
    whole_loads = operands.vector * operands.itemsize == 16
    if "p" in operands.varies:
        return designed_for_locations(operator, operands, whole_loads)
    wide, narrow = _WIDE, _NARROW
    if operator == "wgrad":
        wide, narrow = _WIDE if operands.itemsize == 2 else _WIDE_WGRAD_FLOAT32, _NARROW_WGRAD
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
    return [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in rows]


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
        return [tile for tile in found if fits(tile, operator, operands.itemsize, device)]
    grid = product((64, 128, 256), (16, 32, 64, 128, 256), (64, 128), (4, 8), (2, 3, 4))
    tiles = [Tile(M, N, K // operands.itemsize, warps, stages) for M, N, K, warps, stages in grid]
    return [tile for tile in tiles if fits(tile, operator, operands.itemsize, device)]


def fits(tile: Tile, operator: Operator, itemsize: int, device: Device) -> bool:
    """Whether `tile` may run: powers of two, as large as tensor cores want where they are used, shared memory, and
    registers.

    On sm_90, sm_100 and sm_103 a thread may hold 128 accumulators. Elsewhere operands and accumulators share its 255
    registers, and so they do in wgrad on sm_100, where sums on their way from tensor memory meet those of the bias.
    """
    blocks = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K)
    few = images(tile, operator) <= FEW
    if any(block < (1 if few else 16) or block & (block - 1) for block in blocks):
        return False
    if device == INTERPRETER:
        return True
    # Without tensor cores, products wait to be added up.
    accumulators = tile.BLOCK_M * tile.BLOCK_N * (tile.BLOCK_K if few else 1) // (32 * tile.num_warps)
    most = 128 if device.capability in ((90,) if operator == "wgrad" else (90, 100, 103)) else 64
    return accumulators <= most and tile.shared_bytes(operator, itemsize) <= device.shared_bytes


def available(operator: Operator, operands: Operands, device: Device) -> list[Tile]:
    """The shipped tiles that fit, with the two stages that AMD's pipeliner wants."""
    return runnable(shipped(operator, operands), operator, operands, device)


def runnable(tiles: list[Tile], operator: Operator, operands: Operands, device: Device) -> list[Tile]:
    adapted = [replace(tile, num_stages=2) if device.capability == 0 else tile for tile in tiles]
    return [tile for tile in adapted if fits(tile, operator, operands.itemsize, device)]


@lru_cache(maxsize=4096)
def pick(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> Tile:
    """The tile that was measured to be best on this device, if there is a row for such a problem that fits.

    Else the one that the model in `expected` thinks will finish first. fprop and dgrad keep to one `depth`.
    """
    gemm = geometry.gemm(operator)
    if device == INTERPRETER:
        K = gemm.K if operator == "wgrad" else gemm.K // (geometry.R * geometry.S)
        M, N, K = (min(64, power_of_two(extent)) for extent in (gemm.M, gemm.N, K))
        if geometry.per_location and geometry.images_per_weight <= FEW:
            few = 1 << max(0, geometry.images_per_weight - 1).bit_length()
            M, K = (M, few) if operator == "wgrad" else (few, K)
        return Tile(M, N, K, num_warps=4, num_stages=1)
    tiles = suited(available(operator, operands, device), geometry, operator, operands, device)
    known = measured.table(device.name).get(measured.key(geometry, operator, *astuple(operands)))
    if known and replace(Tile(*known), SPLIT_K=1) in tiles:
        return Tile(*known)
    return first(tiles, geometry, operator, device)


def suited(
    tiles: list[Tile], geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device
) -> list[Tile]:
    """Those of the tiles that may run for such a problem: of so many images, or for fprop and dgrad of its `depth`."""
    if geometry.per_location:
        return for_images(tiles, geometry, operator)
    if operator == "wgrad":
        return tiles
    BLOCK_K = depth(geometry, operator, operands, device)
    return [tile for tile in tiles if tile.BLOCK_K == BLOCK_K]


def depth(geometry: ConvGeometry, operator: Operator, operands: Operands, device: Device) -> int:
    """The BLOCK_K of fprop and dgrad for such a problem, whatever its batch, and whatever memory format its result has:
    what the model wants for a usual one.

    It decides in which order a result's products are added up. So a batch gives the same bits as its images do one by
    one, though another tile computes them, and though an image that is cut out may no longer be channels_last.
    """
    operands = replace(operands, whole_stores=True)
    tiles = runnable(designed(operator, operands), operator, operands, device)
    return first(tiles, replace(geometry, B=USUAL_BATCH), operator, device).BLOCK_K


def first(tiles: list[Tile], geometry: ConvGeometry, operator: Operator, device: Device) -> Tile:
    """The one of `tiles` that is `expected` to finish first; the larger one where the model sees no difference."""
    return min(
        with_splits(tiles, operator, geometry.gemm(operator), device),
        key=lambda tile: (expected(tile, geometry, operator, device), -tile.BLOCK_M * tile.BLOCK_N, tile.SPLIT_K),
    )


def with_splits(tiles: list[Tile], operator: Operator, gemm: Gemm, device: Device) -> list[Tile]:
    """Each tile, for wgrad with every split of the reduction that is worth considering."""
    if operator != "wgrad":
        return tiles
    return [replace(tile, SPLIT_K=n) for tile in tiles for n in splits(gemm, tile, device)]


def splits(gemm: Gemm, tile: Tile, device: Device) -> list[int]:
    """Into how many parts wgrad's reduction may be cut: one, or so many that one or two waves fill the device.

    Every part gets LEAST_STEPS at least.
    """
    programs = max(1, tile.blocks(gemm))
    most = max(1, ceil(gemm.K / tile.BLOCK_K) // LEAST_STEPS)
    return sorted({min(most, max(1, waves * device.multiprocessors // programs)) for waves in (0, 1, 2)})


def expected(tile: Tile, geometry: ConvGeometry, operator: Operator, device: Device) -> float:
    """The time `tile` would take, in units of one element of K for a 16 x 16 block of results.

    No tile has been timed yet. The model counts, over the waves of programs, the larger of arithmetic and operand
    traffic; for dgrad, which starts a set of programs for each phase of the stride, the mean phase.
    """
    gemm = geometry.launched(operator)
    M, N, K, G = gemm
    taps, phases, partials = float(geometry.R * geometry.S), geometry.phases if operator == "dgrad" else 1, 0
    if operator == "wgrad":
        depth: float = ceil(ceil(K / tile.BLOCK_K) / tile.SPLIT_K) * tile.BLOCK_K
        partials = tile.SPLIT_K * M * N * G
    else:
        depth = ceil(K / taps / tile.BLOCK_K) * tile.BLOCK_K * taps / phases
    waves = ceil(tile.blocks(gemm) * tile.SPLIT_K / device.multiprocessors)
    arithmetic = tile.BLOCK_M * tile.BLOCK_N / 256
    traffic = (tile.BLOCK_M + tile.BLOCK_N) / 4
    return waves * (depth * max(arithmetic, traffic) + PER_PROGRAM) + PER_PARTIAL * partials / device.multiprocessors


# The batch by which the depth of a step is chosen: what a GPU is trained with.
USUAL_BATCH = 128
# What a program costs beside its steps (indices, first loads, result), and what it costs to write a partial sum and to
# read it again, in the model's units. Estimates.
PER_PROGRAM = 2_000
PER_PARTIAL = 4
# Steps below which a part of wgrad's reduction would not repay its start and its partial sums.
LEAST_STEPS = 16


def power_of_two(extent: int) -> int:
    """The smallest power of two that covers `extent`, and 16 at least."""
    return max(16, 1 << max(0, extent - 1).bit_length())
