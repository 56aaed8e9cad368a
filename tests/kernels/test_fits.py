"""Which tiles fit a GPU, which shape their blocks of pixels have, and how many programs they make."""

from dataclasses import replace

import pytest

from tests.support.gpus import A100, H100, MI300
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling import fits, pick
from tritonconv.tiling.block_shapes import candidate_shapes, whole_rows, with_best_shape, with_shape
from tritonconv.tiling.tile import BESIDE_OPERANDS, BESIDE_RESULT, Operands, Tile


def test_blocks_are_for_tensor_cores_and_hardware_that_copies_them() -> None:
    blocks = Operands(2, 8, tma_possible=True)
    assert any(tile.uses_tma for tile in fits.available("fprop", blocks, H100))
    for operands, gpu in ((blocks, A100), (blocks, MI300), (Operands(2, 8), H100)):
        assert not any(tile.uses_tma for tile in fits.available("fprop", operands, gpu))
    assert not any(
        tile.uses_tma for tile in fits.available("wgrad", Operands(4, 4, exact=True, tma_possible=True), H100)
    )


def test_few_filters_get_a_narrow_tile() -> None:
    few = ConvGeometry(8, 128, 258, 258, 3, 256, 256, 3, 3)
    assert pick.pick(few, "fprop", Operands(2, 8), H100).BLOCK_N == 16


@pytest.mark.parametrize(
    "tile",
    [
        Tile(96, 64, 64, 4, 3),  # no power of two
        Tile(8, 64, 64, 4, 3),  # smaller than tensor cores take
        Tile(256, 256, 64, 8, 3),  # 256 accumulators per thread
        Tile(128, 128, 128, 8, 4),  # 262,144 bytes of operands
    ],
    ids=str,
)
def test_what_does_not_fit(tile: Tile) -> None:
    assert not fits.fits(tile, "fprop", 2, H100)
    assert fits.fits(Tile(128, 128, 64, 8, 3), "fprop", 2, H100)


def test_registers() -> None:
    huge, B200, RTX5090 = Tile(128, 256, 64, 8, 3), Gpu.of("sm_100", 148), Gpu.of("sm_120", 170)
    assert [fits.fits(huge, operator, 2, B200) for operator in OPERATORS] == [True, True, False]
    assert [fits.fits(huge, operator, 2, H100) for operator in OPERATORS] == [True, True, True]
    assert not fits.fits(huge, "fprop", 2, A100)
    assert not fits.fits(huge, "fprop", 2, RTX5090)


def test_shared_memory() -> None:
    small, large = Tile(128, 128, 16, 8, 1), Tile(128, 128, 64, 8, 3)
    assert large.shared_bytes("fprop", 2, H100) == 3 * 256 * 64 * 2 + BESIDE_OPERANDS
    assert small.shared_bytes("dgrad", 2, H100) == 128 * 128 * 2 + BESIDE_OPERANDS
    assert small.shared_bytes("wgrad", 2, H100) == 128 * 128 * 4 + 8 * 128 * 4 + BESIDE_OPERANDS


def test_programs_that_compute_one_tile_after_another() -> None:
    """Persistent kernels, which are fprop and dgrad by TMA, start at most as many programs as run at the same time."""
    geometry = ConvGeometry(128, 256, 56, 56, 256, 56, 56, 3, 3, pad_h=1, pad_w=1)
    tile = with_shape(Tile(128, 128, 64, 4, 3), (2, 8, 8))
    assert tile.occupancy("fprop", 2, H100) == 2
    assert tile.blocks(geometry, "fprop") > 2 * 132
    assert tile.programs(geometry, "fprop", 2, H100) == 2 * 132
    assert tile.programs(replace(geometry, B=2), "fprop", 2, H100) == tile.blocks(replace(geometry, B=2), "fprop")
    gathered = Tile(128, 128, 64, 8, 3)
    assert gathered.programs(geometry, "fprop", 2, H100) == gathered.blocks(geometry, "fprop")
    split = replace(gathered, SPLIT_K=3)
    assert split.programs(geometry, "wgrad", 2, H100) == 3 * gathered.blocks(geometry, "wgrad")


@pytest.mark.parametrize(
    ("tile", "halves"),
    [
        ((128, 128, 64, 4, 3), True),
        ((128, 256, 64, 8, 3), True),
        ((256, 128, 64, 8, 3), False),
        ((256, 64, 64, 4, 2), False),
    ],
    ids=str,
)
def test_results_leave_in_halves_where_warps_have_rows_of_both(tile: tuple[int, ...], halves: bool) -> None:
    """Halves leave room in shared memory for the operands of the next tile."""
    tiled = with_shape(Tile(*tile), (1, 1, tile[0]))
    M, N, K, _, stages = tile
    assert tiled.halves == halves
    assert (
        tiled.shared_bytes("fprop", 2, H100)
        == 2 * (stages * (M + N) * K + M * N // (1 + halves)) + BESIDE_OPERANDS + BESIDE_RESULT
    )
    apart = 2 * (stages * (M + N) * K + M * N) + BESIDE_OPERANDS + BESIDE_RESULT
    assert tiled.shared_bytes("fprop", 2, Gpu.of("sm_100", 148)) == apart


def test_wgrad_takes_lines_or_whole_rows() -> None:
    """A block has whole rows or whole images if it can, and otherwise is a line. Images far apart make no line."""

    def shape(geometry: ConvGeometry, pixels: int) -> tuple[int, int, int]:
        tile = with_best_shape(with_shape(Tile(64, 64, pixels, 4, 4), (1, 1, pixels)), geometry, "wgrad")
        return tile.BLOCK_B, tile.BLOCK_H, tile.BLOCK_W

    def square(B: int, C: int, size: int) -> ConvGeometry:
        return ConvGeometry(B, C, size, size, C, size, size, 3, 3, pad_h=1, pad_w=1)

    assert shape(square(16, 64, 16), 64) == (1, 4, 16)
    assert shape(square(16, 64, 4), 64) == (4, 4, 4)
    assert shape(square(16, 64, 64), 64) == (1, 1, 64)
    assert shape(square(128, 64, 14), 64) == (64, 1, 1)
    assert shape(square(64, 64, 224), 64) == (1, 1, 64)  # 64 images are 411 MB
    odd_rows = replace(square(16, 64, 16), H=15, P=15)
    assert whole_rows(64, odd_rows) == []
    assert whole_rows(16, square(16, 64, 16)) == []


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("pixels", [16, 32, 64, 128, 256])
def test_shapes(pixels: int, operator: Operator) -> None:
    """Every shape has as many pixels as asked for and occurs once. No side is longer than TMA copies."""
    found = candidate_shapes(pixels, operator)
    assert all(pixels == B * H * W for B, H, W in found)
    assert len(set(found)) == len(found)
    assert max(max(shape) for shape in found) <= 256
    assert {(pixels, 1, 1), (1, 1, pixels)} <= set(found)
    assert found[0][0] == 1


@pytest.mark.parametrize("size", [7, 14, 28, 56])
def test_usual_images_fill_their_blocks(size: int) -> None:
    """A batch of 128 fills its blocks to the last pixel. A block spans several images if one image does not divide."""
    geometry = ConvGeometry(128, 64, size, size, 64, size, size, 3, 3, pad_h=1, pad_w=1)
    for pixels in (64, 128):
        tile = with_best_shape(with_shape(Tile(pixels, 64, 64, 4, 3), (1, 1, pixels)), geometry, "fprop")
        assert tile.pixel_blocks(geometry, "fprop") * pixels == 128 * size * size


@pytest.mark.parametrize(
    ("pixels", "P", "Q", "shape"),
    [
        (64, 8, 8, (1, 8, 8)),
        (16, 6, 8, (1, 2, 8)),
        (32, 2, 4, (4, 2, 4)),
        (64, 2, 16, (2, 2, 16)),
        (64, 64, 64, None),  # one row is a line
        (64, 4, 5, None),  # a row does not fit a whole number of times
        (16, 3, 8, None),  # rows of two images would be in one block
    ],
)
def test_whole_rows(pixels: int, P: int, Q: int, shape: tuple[int, int, int] | None) -> None:
    geometry = ConvGeometry(B=8, C=8, H=P, W=Q, F=8, P=P, Q=Q, R=1, S=1)
    assert whole_rows(pixels, geometry) == ([] if shape is None else [shape])
