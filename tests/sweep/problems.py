"""Draw a legal random problem, and small tiles for it, from a seed."""

import random
from dataclasses import replace
from math import ceil

from tests.support.cases import LAYOUTS, Case, pair
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER
from tritonconv.tiling.block_shapes import candidate_shapes, pixels_of, whole_rows, with_shape
from tritonconv.tiling.pick import pick
from tritonconv.tiling.tile import Operands, Tile

DTYPES = ("float32", "bfloat16", "float16")
GRADIENTS = ("all_zero_strides", *LAYOUTS)
# The most steps of a tile that one operator of a problem may take. Triton's interpreter takes 11 to 18 ms for each.
MOST_STEPS = 60
MOST_CHANNELS = 40


def problem(seed: int, dtype: str | None = None) -> Case:
    """Return the random problem of this seed, always the same one. It is transposed if the seed is odd.

    The dtype is random, too. `dtype` replaces it, except where torch does the padding. The weight of about every third
    problem varies.
    """
    rng = random.Random(seed)
    while True:
        case = draw(rng, seed)
        if legal(case) and max(steps(case.geometry).values()) <= MOST_STEPS:
            case = varied(case, random.Random(f"weight of {seed}"))
            return replace(case, dtype=dtype) if dtype is not None and case.padding_mode == "zeros" else case


def integers(seed: int) -> bool:
    """Whether the operands of this seed's problem are small integers, whose results must be exact.

    They are in half of the convolutions and in half of the transposed ones: for seeds 0 and 1 of every four.
    """
    return seed // 2 % 2 == 0


def draw(rng: random.Random, seed: int) -> Case:
    """Return a case with random parameters, transposed if `seed` is odd.

    It may be illegal, or too large for the interpreter: the caller checks both.
    """

    def two(*choices: int) -> tuple[int, int]:
        return rng.choice(choices), rng.choice(choices)

    transposed = seed % 2 == 1
    groups = rng.choice([1, 1, 1, 1, 2, 3, 4, 8])
    into, out = (rng.choice([1, 2, 3, 4, 5, 8, 8, 13, 16, 24, 40, rng.randint(1, MOST_CHANNELS)]) for _ in range(2))
    if groups == 8:  # depthwise
        groups = into
        out = into * rng.choice([1, 1, 2])
    case = Case(
        f"random_{seed}",
        batch=rng.choice([None, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
        channels=tuple(max(1, min(n, MOST_CHANNELS) // groups) * groups for n in (into, out)),  # type: ignore[arg-type]
        size=two(1, 2, 3, 4, 5, 6, 7, 9),
        kernel=two(1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7),
        stride=two(1, 1, 1, 2, 2, 3, 4),
        padding=two(0, 0, 0, 1, 1, 2, 3, 5, 9),
        dilation=two(1, 1, 1, 2, 3),
        groups=groups,
        bias=rng.random() < 0.7,
        transposed=transposed,
        x=rng.choice(LAYOUTS),
        weight=rng.choice(LAYOUTS),
        bias_layout=rng.choice(["contiguous", "contiguous", "sliced", "repeated", "offset"]),
        dtype=rng.choice(DTYPES),
        gradient=rng.choice(GRADIENTS),
    )
    if transposed:
        most = [max(s, d) for s, d in zip(case.stride, case.dilation, strict=True)]
        return replace(case, output_padding=(rng.randrange(most[0]), rng.randrange(most[1])))
    if rng.random() < 0.15:
        case = replace(case, stride=1, padding="same")
    if rng.random() < 0.15:
        # torch does this padding. Backward adds the gradients of repeated pixels in the image's dtype, so in 16 bits
        # they would be rounded more than once.
        case = replace(case, padding_mode=rng.choice(["reflect", "replicate", "circular"]), dtype="float32")
    return case


def varied(case: Case, rng: random.Random) -> Case:
    """Return `case` with a weight that varies, or, in two of three draws, as it is.

    A case with a padding mode other than zeros stays as it is. If the case takes too many steps with such a weight,
    image and kernel are drawn smaller. If that does not help, `case` stays as it is.
    """
    if case.padding_mode != "zeros" or rng.random() < 0.65:
        return case
    varies = "p q" if case.transposed else rng.choice(["p q", "p q", "b", "b p q"])
    own = ["", "b", "p q", "b p q"]
    bias_varies = rng.choice([letters for letters in own if set(letters) <= set(varies)])
    each = replace(case, varies=varies, bias_varies=bias_varies)
    if each.batch and varies == "p q":  # larger batches run on tensor cores
        each = replace(each, batch=rng.choice([each.batch, each.batch, 6, 9, 17]))
    for _ in range(20):
        if legal(each) and max(steps(each.geometry).values()) <= MOST_STEPS:
            return each
        fewer, shorter = (rng.randint(1, 4), rng.randint(1, 3)), (rng.randint(1, 3), rng.randint(1, 2))
        smaller = replace(each, size=fewer, kernel=shorter)
        each = smaller if legal(smaller) else each
    return case


def legal(case: Case) -> bool:
    """Whether the result has at least one pixel, and the image is large enough for a padding mode other than zeros.

    Reflect and circular padding also need at least one image.
    """
    reach = [d * (k - 1) for k, d in zip(case.kernel, pair(case.dilation), strict=True)]
    if case.padding == "same":
        pads = [ceil(r / 2) for r in reach]
    else:
        pads = list(pair(case.padding))
        sides = zip(case.size, reach, pair(case.stride), pads, pair(case.output_padding), strict=True)
        for n, r, s, p, extra in sides:
            if ((n - 1) * s - 2 * p + r + extra if case.transposed else n + 2 * p - r - 1) < 0:
                return False
    if case.padding_mode in ("reflect", "circular"):
        beyond = max(p - n for p, n in zip(pads, case.size, strict=True))
        return beyond < (0 if case.padding_mode == "reflect" else 1) and case.batch != 0
    return True


def steps(geometry: ConvGeometry) -> dict[Operator, int]:
    """Return how many steps of its tile the interpreter takes for each operator, with the tiles that `pick` chooses.

    Each number is the larger of two: with pixels that TMA copies in blocks, and with gathered pixels.
    """
    return {
        operator: max(steps_of(operator, geometry, picked(operator, geometry, blocks)) for blocks in (False, True))
        for operator in OPERATORS
    }


def picked(operator: Operator, geometry: ConvGeometry, blocks: bool) -> Tile:
    """Return the tile that `pick` chooses for the interpreter. `blocks` says whether TMA can copy blocks of pixels."""
    operands = Operands(itemsize=4, vector=1, varies=geometry.varies, tma_possible=blocks)
    return pick(geometry, operator, operands, INTERPRETER)


def steps_of(operator: Operator, geometry: ConvGeometry, tile: Tile) -> int:
    """Return how many steps of its loop an operator takes with `tile`, in all blocks of results together.

    If there are more blocks than steps, return the number of blocks. The SPLIT_K parts of a block count as blocks here.
    """
    phases = geometry.phases if operator == "dgrad" else 1
    return tile.blocks(geometry, operator) // phases * max(tile.steps(geometry, operator), phases, tile.SPLIT_K)


def drawn_tile(seed: int, operator: Operator, geometry: ConvGeometry, blocks: bool = False) -> Tile:
    """Return a random small tile for one operator of this seed's problem, always the same.

    If none of twelve random tiles is fast enough (`MOST_STEPS`), return the tile that `pick` chooses.
    The tile that `pick` chooses covers most of these problems whole. A small one makes a problem take several tiles of
    rows and of columns, several steps, and split-K sums. If pixels can be copied in `blocks`, most tiles get a block
    shape, so the kernels with TMA descriptors run.
    """
    rng = random.Random(f"{operator} of {seed}")
    for _ in range(12):
        M, N, K = rng.choice([16, 32, 64]), rng.choice([16, 16, 32]), rng.choice([16, 16, 32])
        split = rng.choice([1, 2, 3, 5]) if operator == "wgrad" else 1
        group = rng.choice([1, 2, 3, 8])
        if geometry.per_location and rng.random() < 0.7:  # without tensor cores
            M, K = (M, rng.choice([1, 2, 4, 8])) if operator == "wgrad" else (rng.choice([1, 2, 4, 8]), K)
        tile = Tile(M, N, K, num_warps=4, num_stages=1, GROUP_M=group, SPLIT_K=split)
        if blocks and rng.random() < 0.8:
            rows = whole_rows(K, geometry) if operator == "wgrad" else []
            tile = with_shape(tile, rng.choice(candidate_shapes(pixels_of(tile, operator), operator) + rows))
        if steps_of(operator, geometry, tile) <= MOST_STEPS:
            return tile
    return picked(operator, geometry, blocks)
