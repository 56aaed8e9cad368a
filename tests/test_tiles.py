"""Choosing a tile is a pure function of the problem and the device."""

import random

import pytest

from tritonconv import tiles
from tritonconv.geometry import ConvGeometry
from tritonconv.tiles import INTERPRETER, Device, Operands, Tile

H100, A100, RTX4090, MI300 = Device.of(90, 132), Device.of(80, 108), Device.of(89, 128), Device.of(0, 304)
OPERANDS = [Operands(2, v) for v in (1, 2, 4, 8)] + [
    Operands(4, v, exact=exact) for v in (1, 2, 4) for exact in (False, True)
]


def some_geometry(rng: random.Random) -> ConvGeometry:
    G = rng.choice([1, 1, 2, 32])
    C, F = G * rng.choice([1, 3, 8, 64, 256]), G * rng.choice([1, 3, 16, 64, 512])
    P, Q, R = rng.choice([1, 7, 56]), rng.choice([1, 14, 112]), rng.choice([1, 3, 7])
    return ConvGeometry(rng.choice([1, 8, 128]), C, P + R - 1, Q + R - 1, F, P, Q, R, R, G)


@pytest.mark.parametrize("device", [H100, A100, RTX4090, MI300, Device.of(120, 170), INTERPRETER], ids=str)
@pytest.mark.parametrize("operands", OPERANDS, ids=str)
def test_what_is_picked_fits(device: Device, operands: Operands) -> None:
    rng = random.Random(0)
    for _ in range(50):
        geometry = some_geometry(rng)
        tile = tiles.pick(geometry, "fprop", operands, device)
        assert tiles.fits(tile, operands.itemsize, device)
        assert tile == tiles.pick(geometry, "fprop", operands, device)


def test_a_large_layer_gets_a_large_tile() -> None:
    large = ConvGeometry(128, 256, 58, 58, 256, 56, 56, 3, 3)
    small = ConvGeometry(1, 64, 9, 9, 64, 7, 7, 3, 3)
    assert tiles.pick(large, "fprop", Operands(2, 8), H100) == Tile(128, 256, 64, 8, 3)
    picked = tiles.pick(small, "fprop", Operands(2, 8), H100)
    assert picked.BLOCK_M * picked.BLOCK_N <= 64 * 64


def test_few_filters_get_a_narrow_tile() -> None:
    few = ConvGeometry(8, 128, 258, 258, 3, 256, 256, 3, 3)
    assert tiles.pick(few, "fprop", Operands(2, 8), H100).BLOCK_N == 16


@pytest.mark.parametrize(
    "tile",
    [
        Tile(96, 64, 64, 4, 3),  # no power of two
        Tile(8, 64, 64, 4, 3),  # below what tensor cores take
        Tile(256, 256, 64, 8, 3),  # 256 accumulators per thread
        Tile(128, 128, 128, 8, 4),  # 262,144 bytes of operands
    ],
    ids=str,
)
def test_what_does_not_fit(tile: Tile) -> None:
    assert not tiles.fits(tile, 2, H100)
    assert tiles.fits(Tile(128, 128, 64, 8, 3), 2, H100)


def test_shared_memory() -> None:
    assert Tile(128, 128, 64, 8, 3).shared_bytes(2) == 3 * 256 * 64 * 2 + tiles.BESIDE_OPERANDS
    assert Tile(128, 128, 16, 8, 1).shared_bytes(2) == 128 * 128 * 2 + tiles.BESIDE_OPERANDS
