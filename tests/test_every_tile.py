"""Every tile that can be chosen, for every operator: not only those that are chosen for the tests' small problems."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

from tests.cases import DTYPES
from tests.guards import guarded
from tests.oracle import convolution_precision
from tritonconv import launch, processor, tiles
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.layout import alignment

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def every_tile() -> list[tuple[Operator, str, tiles.Operands, tiles.Tile]]:
    rows = []
    for operator, (dtype, exact) in product(
        OPERATORS, [("bfloat16", False), ("float16", False), ("float32", True), ("float32", False)]
    ):
        itemsize = DTYPES[dtype].itemsize
        for vector in sorted({1, 4 // itemsize, 16 // itemsize}):
            operands = tiles.Operands(itemsize, vector, exact=exact)
            rows += [(operator, dtype, operands, tile) for tile in tiles.shipped(operator, operands)]
    return rows


def name(value: Any) -> str:
    if isinstance(value, tiles.Tile):
        return "x".join(map(str, (value.BLOCK_M, value.BLOCK_N, value.BLOCK_K)))
    return f"{value.vector}{'ieee' * value.exact}" if isinstance(value, tiles.Operands) else str(value)


def geometry_for(operator: Operator, tile: tiles.Tile, vector: int) -> ConvGeometry:
    """Two tiles of rows, columns and reduction, ragged in each, and channels that are multiples of `vector`."""
    if operator == "wgrad":
        F, C, Q = tile.BLOCK_M + vector, tile.BLOCK_N // 2 + 8 - 8 % vector, tile.BLOCK_K + 3
    else:
        loaded, stored, Q = tile.BLOCK_K + vector, tile.BLOCK_N + 8, tile.BLOCK_M // 4 + 3
        C, F = (stored, loaded) if operator == "dgrad" else (loaded, stored)
    return ConvGeometry(B=2, C=C, H=2, W=Q + 1, F=F, P=2, Q=Q, R=1, S=2)


def factors_of(operator: Operator, geometry: ConvGeometry, dtype: torch.dtype) -> tuple[Tensor, Tensor, Any]:
    """Small integers, and the bias."""
    generator = torch.Generator().manual_seed(0)
    x, weight, y = (
        torch.randint(-2, 3, shape, generator=generator).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)
        for shape in (geometry.image_shape, geometry.weight_shape, geometry.feature_shape)
    )
    channels = torch.arange(-8, 8, device=DEVICE, dtype=dtype)
    match operator:
        case "fprop":
            return x, weight, channels.repeat(geometry.F)[: geometry.F]
        case "dgrad":
            return y, weight, channels.repeat(geometry.C)[: geometry.C]
        case "wgrad":
            return x, y, True


def expected(
    operator: Operator, first: Tensor, second: Tensor, bias: Any, geometry: ConvGeometry
) -> tuple[Tensor, ...]:
    first, second = first.double(), second.double()
    match operator:
        case "fprop":
            return (conv2d(first, second, bias.double()),)
        case "dgrad":
            return (conv_transpose2d(first, second, bias.double()),)
        case "wgrad":
            return conv2d_weight(first, geometry.weight_shape, second), second.sum((0, 2, 3))


@pytest.mark.parametrize(("operator", "dtype", "operands", "tile"), every_tile(), ids=name)
def test_integers_are_exact(operator: Operator, dtype: str, operands: tiles.Operands, tile: tiles.Tile) -> None:
    device = processor.device_of(DEVICE)
    if not tiles.fits(tile, operator, operands.itemsize, device):
        pytest.skip("this GPU has less shared memory, or fewer registers")
    geometry = geometry_for(operator, tile, operands.vector)
    first, second, bias = factors_of(operator, geometry, DTYPES[dtype])
    if operator == "wgrad":
        tile = tiles.replace(tile, SPLIT_K=2)
    with convolution_precision("ieee" if operands.exact else "tf32"):
        plan = launch.PLANS[operator](guarded(first), guarded(second), bias, geometry, True, device, tile)
        results = launch.run(plan)
    assert alignment(first, first.shape[1]) >= operands.vector
    assert plan.launches[0].arguments["BLOCK_K"] == tile.BLOCK_K
    for actual, wanted in zip(results, expected(operator, first, second, bias, geometry), strict=True):
        assert torch.equal(actual, wanted.to(actual.dtype))
