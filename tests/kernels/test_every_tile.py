"""Every tile that can be picked gives exact results, also those that the small problems of other tests never pick."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad
from torch.nn.grad import conv2d_weight

from tests.support.cases import DTYPES, laid_out
from tests.support.guards import guarded
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.launch import start
from tritonconv.launch.layout import alignment
from tritonconv.tiling import catalogue, fits
from tritonconv.tiling.tile import Operands, Tile

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# On a GPU these tests find most mistakes, so they run first.
pytestmark = [pytest.mark.gpu, pytest.mark.oldest, *[pytest.mark.first] * (DEVICE.type == "cuda")]


def every_tile() -> list[tuple[Operator, str, Operands, Tile]]:
    """Return the shipped gather tiles for each dtype, precision and alignment, with operator, dtype and operands."""
    rows = []
    for operator, (dtype, exact) in product(
        OPERATORS, [("bfloat16", False), ("float16", False), ("float32", True), ("float32", False)]
    ):
        itemsize = DTYPES[dtype].itemsize
        for vector in sorted({1, 4 // itemsize, 16 // itemsize}):
            operands = Operands(itemsize, vector, exact=exact)
            rows += [(operator, dtype, operands, tile) for tile in catalogue.shipped(operator, operands)]
    return rows


def every_tma_tile() -> list[tuple[Operator, str, Operands, Tile]]:
    """Return the shipped TMA tiles, each with operator, dtype and operands.

    Without a GPU there are only those for bfloat16, because the interpreter computes every dtype in float32.
    """
    rows = []
    for operator, dtype in product(OPERATORS, ["bfloat16", "float16", "float32"][: 3 if DEVICE.type == "cuda" else 1]):
        itemsize = DTYPES[dtype].itemsize
        operands = Operands(itemsize, 16 // itemsize, tma_possible=True)
        tiled = [tile for tile in catalogue.shipped(operator, operands) if tile.uses_tma]
        rows += [(operator, dtype, operands, tile) for tile in tiled]
    return rows


def every_local_tile() -> list[tuple[Operator, str, Operands, Tile]]:
    """Return the shipped tiles for weights of locations, each for one alignment of operands that it is shipped for."""
    rows: dict[tuple[Operator, str, Tile], Operands] = {}
    for operator, dtype, whole in product(OPERATORS, ["bfloat16", "float32"], [True, False]):
        itemsize = DTYPES[dtype].itemsize
        operands = Operands(itemsize, 16 // itemsize if whole else 1, exact=dtype == "float32", varies="p q")
        for tile in catalogue.shipped(operator, operands):
            rows.setdefault((operator, dtype, tile), operands)
    return [(operator, dtype, operands, tile) for (operator, dtype, tile), operands in rows.items()]


def name(value: Any) -> str:
    if isinstance(value, Tile):
        return str(value) if value.uses_tma else "x".join(map(str, (value.BLOCK_M, value.BLOCK_N, value.BLOCK_K)))
    if isinstance(value, Operands):
        return f"{value.vector}{'ieee' * value.exact}{'local' * bool(value.varies)}"
    return str(value)


def geometry_for(operator: Operator, tile: Tile, vector: int, varies: str) -> ConvGeometry:
    """Return a problem with two tiles of rows and of columns and with several steps. Most of the last are ragged.

    Channels are multiples of `vector`. If each location has a weight, there are two locations, and one image more than
    the tile takes at once. In this case fprop and dgrad have one tile of columns.
    """
    if operator == "wgrad":
        F, C, Q = tile.BLOCK_M + vector, tile.BLOCK_N // 2 + 8 - 8 % vector, tile.BLOCK_K + 3
    else:
        loaded, stored, Q = tile.BLOCK_K + vector, tile.BLOCK_N + 8, tile.BLOCK_M // 4 + 3
        C, F = (stored, loaded) if operator == "dgrad" else (loaded, stored)
    if varies:
        C, F = (C, F - 16) if operator == "fprop" else (C - 16, F) if operator == "dgrad" else (C, F)
        return ConvGeometry(catalogue.images(tile, operator) + 1, C, H=1, W=3, F=F, P=1, Q=2, R=1, S=2, varies=varies)
    return ConvGeometry(B=2, C=C, H=2, W=Q + 1, F=F, P=2, Q=Q, R=1, S=2)


def factors_of(operator: Operator, geometry: ConvGeometry, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the factors that `operator` takes, in the order of `TAKES`, and the bias that it adds.

    The factors hold random integers from -2 to 2, in channels_last. The bias is None for wgrad.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight, y = (
        laid_out(torch.randint(-2, 3, shape, generator=generator).to(DEVICE, dtype), "channels_last")
        for shape in (geometry.image_shape, geometry.weight_shape, geometry.feature_shape)
    )
    match operator:
        case "fprop":
            return x, weight, bias_of(y, geometry)
        case "dgrad":
            return y, weight, bias_of(x, geometry)
        case "wgrad":
            return x, y, None


def bias_of(side: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return a bias beside `side` of the integers from -8 to 7, in turn.

    It has a number for each channel or, if the weight varies, for each channel and pixel.
    """
    shape = side.shape[1:] if geometry.varies else side.shape[1:2]
    return (torch.arange(shape.numel(), device=side.device) % 16 - 8).to(side.dtype).reshape(shape)


def expected(
    operator: Operator, first: Tensor, second: Tensor, bias: Any, geometry: ConvGeometry
) -> tuple[Tensor, ...]:
    """Return what torch computes in float64. `first` and `second` are the factors in the order of `TAKES`.

    For wgrad of a shared weight, the bias's gradient follows the weight's.
    """
    first, second = first.double(), second.double()
    if geometry.varies:
        return (at_each_position(operator, first, second, bias, geometry),)
    match operator:
        case "fprop":
            return (conv2d(first, second, bias.double()),)
        case "dgrad":
            return (conv_transpose2d(first, second, bias.double()),)
        case "wgrad":
            return conv2d_weight(first, geometry.weight_shape, second), second.sum((0, 2, 3))


def at_each_position(operator: Operator, first: Tensor, second: Tensor, bias: Any, geometry: ConvGeometry) -> Tensor:
    """Return what torch computes in float64 for the problem of `geometry_for` with a weight of each location.

    The problem has one row of positions and two taps: position q has the filters weight[0,q] and sees the pixels q and
    q + 1. `first` and `second` are the factors in the order of `TAKES`. The result is (B, F, 1, Q) for fprop, (B, C, 1, W)
    for dgrad, and (1, Q, F, C, 1, 2) for wgrad.
    """
    positions = range(geometry.Q)
    match operator:
        case "fprop":
            return torch.cat([conv2d(first[..., q : q + 2], second[0, q]) for q in positions], -1) + bias.double()
        case "dgrad":
            parts = [conv_transpose2d(first[..., q : q + 1], second[0, q]) for q in positions]
            return sum(pad(part, (q, geometry.Q - 1 - q)) for q, part in enumerate(parts)) + bias.double()
        case "wgrad":
            shape = geometry.weight_shape[2:]
            parts = [conv2d_weight(first[..., q : q + 2], shape, second[..., q : q + 1]) for q in positions]
            return torch.stack(parts)[None]


def parameters() -> list[Any]:
    """Return the parameters of the test. Without a GPU, those in float16 are marked slow.

    The tiles for float16 are those for bfloat16, and the interpreter computes both dtypes in float32.
    """
    slow = [] if DEVICE.type == "cuda" else [pytest.mark.slow]
    rows = [*every_tile(), *every_tma_tile(), *every_local_tile()]
    return [pytest.param(*row, id="-".join(map(name, row)), marks=slow if row[1] == "float16" else []) for row in rows]


@pytest.mark.parametrize(("operator", "dtype", "operands", "tile"), parameters())
def test_integers_are_exact(operator: Operator, dtype: str, operands: Operands, tile: Tile) -> None:
    gpu = runtime.gpu_of(DEVICE)
    if not fits.fits(tile, operator, operands.itemsize, gpu):
        pytest.skip("this GPU has less shared memory, or fewer registers")
    geometry = geometry_for(operator, tile, operands.vector, operands.varies)
    first, second, bias = factors_of(operator, geometry, DTYPES[dtype])
    if operator == "wgrad":
        tile = replace(tile, SPLIT_K=2)
    finds_bias = operator == "wgrad" and not geometry.varies
    with convolution_precision("ieee" if operands.exact else "tf32"):
        plan = planned(
            Call.of_geometry(operator, geometry, (guarded(first), guarded(second)), bias, finds_bias=finds_bias), tile
        )
        results = start.run(plan)
    assert alignment(first, first.shape[1]) >= operands.vector
    assert plan.launches[0].arguments["BLOCK_K"] == tile.BLOCK_K
    for actual, wanted in zip(results, expected(operator, first, second, bias, geometry), strict=True):
        assert torch.equal(actual, wanted.to(actual.dtype))
