"""Choosing a tile is a pure function of the problem and the GPU."""

import json
import random
from dataclasses import replace
from itertools import product

import pytest
import torch

from bench.layers import read
from tests.support.gpus import A100, H100, H200, LIKE_AN_H200, MI300, RTX4090
from tests.support.oracle import convolution_precision
from tests.support.plans import call_of, meta_factors, planned
from tritonconv.geometry import OPERATORS, VARIES, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.tiling import block_shapes, catalogue, fits, measured, pick
from tritonconv.tiling.cost import expected, partial_bytes
from tritonconv.tiling.tile import Operands, Tile

OPERANDS = [
    *(Operands(2, v) for v in (1, 2, 8)),
    *(Operands(4, v, exact=exact) for v in (1, 4) for exact in (False, True)),
    *(Operands(2, 8, tma_possible=True), Operands(4, 4, tma_possible=True)),
]


def some_geometry(rng: random.Random) -> ConvGeometry:
    G = rng.choice([1, 1, 2, 32])
    C, F = G * rng.choice([1, 2, 3, 4, 8, 20, 64, 256]), G * rng.choice([1, 3, 6, 10, 16, 64, 512])
    P, Q, R, stride = rng.choice([1, 7, 56]), rng.choice([1, 14, 112]), rng.choice([1, 3, 7]), rng.choice([1, 1, 2])
    H, W = (P - 1) * stride + R, (Q - 1) * stride + R
    return ConvGeometry(rng.choice([1, 8, 32]), C, H, W, F, P, Q, R, R, G, stride, stride)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("gpu", [H100, A100, RTX4090, MI300, Gpu.of("sm_120", 170), INTERPRETER], ids=str)
@pytest.mark.parametrize("operands", OPERANDS, ids=str)
def test_what_is_picked_fits(gpu: Gpu, operands: Operands, operator: Operator) -> None:
    rng = random.Random(0)
    for _ in range(50):
        geometry = some_geometry(rng)
        tile = pick.pick(geometry, operator, operands, gpu)
        assert fits.fits(tile, operator, operands.itemsize, gpu)
        assert tile == pick.pick(geometry, operator, operands, gpu)
        steps = tile.steps(geometry, operator)
        assert tile.SPLIT_K == 1 or (operator == "wgrad" and steps // tile.SPLIT_K >= pick.LEAST_STEPS)
        if tile.uses_tma:
            assert operands.tma_possible
            assert gpu.architecture.tma
            pixels = tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M
            assert pixels == tile.BLOCK_B * tile.BLOCK_H * tile.BLOCK_W


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("gpu", [H100, A100, RTX4090, MI300, Gpu.of("sm_120", 170), INTERPRETER], ids=str)
@pytest.mark.parametrize("varies", ["b", "p q", "b p q"])
def test_what_is_picked_for_a_weight_that_varies_fits(varies: str, gpu: Gpu, operator: Operator) -> None:
    """If each location has a weight, tensor cores, which take 16 images, are used only for more than FEW images."""
    rng = random.Random(2)
    for operands, B in product(OPERANDS, (1, 4, 8, 9, 128)):
        geometry = replace(some_geometry(rng), B=B, varies=varies)
        tile = pick.pick(geometry, operator, replace(operands, varies=varies), gpu)
        assert fits.fits(tile, operator, operands.itemsize, gpu)
        if geometry.per_location:
            there = 1 if geometry.per_sample else B
            assert (catalogue.images(tile, operator) >= 16) == (there > catalogue.FEW), (geometry, tile)


LOCAL = ConvGeometry(128, 16, 63, 63, 16, 55, 55, 9, 9, varies="p q")


@pytest.mark.parametrize(
    ("B", "rows", "summed"),
    [(1, {1}, {1}), (2, {4}, {1}), (4, {4}, {1}), (5, {8}, {1}), (8, {8}, {1}), (9, {16, 64, 128}, {32})],
)
def test_the_tiles_for_so_many_images(B: int, rows: set[int], summed: set[int]) -> None:
    """Tiles have no more rows than images, rounded up to a tile that exists. wgrad sums few images one by one."""
    operands, geometry = Operands(2, 8, varies="p q"), replace(LOCAL, B=B)
    found = [
        {
            catalogue.images(tile, operator)
            for tile in pick.for_images(fits.available(operator, operands, H100), g, operator)
        }
        for operator, g in product(OPERATORS, (geometry, replace(geometry, varies="b p q")))
    ]
    assert found == [rows, {1}, rows, {1}, summed, {1}]


@pytest.mark.parametrize("varies", VARIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_empty_batch_gets_a_tile_too(operator: Operator, varies: str) -> None:
    empty = ConvGeometry(0, 8, 9, 9, 8, 7, 7, 3, 3, varies=varies)
    assert fits.fits(pick.pick(empty, operator, Operands(2, 8, varies=varies), H100), operator, 2, H100)


def test_few_channels_get_a_narrow_local_tile() -> None:
    """The layers of DeepFace have 16 channels and filters, and a batch of 128."""
    operands = Operands(2, 8, varies="p q")
    assert [str(pick.pick(LOCAL, operator, operands, H100)) for operator in OPERATORS] == [
        "128x16x16w1s4",
        "128x16x16w1s4",
        "16x128x32w4s3",
    ]


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("gpu", [H100, H200, A100, RTX4090, MI300, Gpu.of("sm_100", 148), INTERPRETER], ids=str)
def test_the_order_of_a_sum_does_not_depend_on_the_batch(gpu: Gpu, operator: Operator) -> None:
    """All tiles picked for a layer multiply equally many products in a step, so splitting a batch changes no bit.

    It does not depend on whether results are stored by 16 bytes: an image of a batch may have another memory format."""
    rng, tiles_seen = random.Random(1), 0
    for _ in range(60):
        geometry, operands = some_geometry(rng), rng.choice(OPERANDS)
        picked = {
            pick.pick(replace(geometry, B=B), operator, replace(operands, whole_stores=whole), gpu)
            for B in (1, 2, 5, 16, 64, 128, 1024)
            for whole in (True, False)
        }
        assert len({pick.summation_order(tile) for tile in picked}) == 1, (geometry, operands)
        tiles_seen = max(tiles_seen, len(picked))
    assert tiles_seen > 1


@pytest.mark.parametrize("gpu", [H200, LIKE_AN_H200], ids=lambda gpu: gpu.name)
def test_nor_does_it_on_whether_a_batch_was_measured(gpu: Gpu) -> None:
    """The tiles of a layer were measured at one batch. Its other batches take tiles of the cost model."""
    operands, every = Operands(2, 8, tma_possible=True), product(read(), ("fprop", "dgrad"))
    known = [(layer.geometry, each) for layer, each in every if pick.measured_for(layer.geometry, each, operands, gpu)]
    assert len(known) > 40
    for geometry, operator in known:
        picked = {pick.pick(replace(geometry, B=B), operator, operands, gpu) for B in (1, 16, geometry.B)}
        assert len({pick.summation_order(tile) for tile in picked}) == 1, geometry


def test_nor_does_it_on_the_memory_format_of_the_result() -> None:
    """The model alone would choose another BLOCK_K for this layer if results could not be stored by 16 bytes."""
    geometry = ConvGeometry(64, 448, 15, 15, 288, 8, 8, 3, 3, 1, 2, 2, 1, 1)
    whole, single = (pick.pick(geometry, "dgrad", Operands(2, 8, whole), H100) for whole in (True, False))
    assert whole.BLOCK_K == single.BLOCK_K


def test_a_large_layer_gets_a_large_tile() -> None:
    large = ConvGeometry(128, 256, 58, 58, 256, 56, 56, 3, 3)
    small = ConvGeometry(1, 64, 9, 9, 64, 7, 7, 3, 3)
    assert pick.pick(large, "fprop", Operands(2, 8), H100) == Tile(128, 256, 64, 8, 3)
    assert str(pick.pick(large, "fprop", Operands(2, 8, tma_possible=True), H100)) == "128x256x64w8s4:2.8.8"
    picked = pick.pick(small, "fprop", Operands(2, 8), H100)
    assert picked.BLOCK_M * picked.BLOCK_N <= 128 * 64


def test_a_long_reduction_is_split() -> None:
    """A long reduction gets programs for every multiprocessor, where the weight alone would occupy only a few.

    A short reduction is not split.
    """
    long = ConvGeometry(128, 64, 58, 58, 64, 56, 56, 3, 3)
    tile = pick.pick(long, "wgrad", Operands(2, 8), H100)
    programs = -(-64 // tile.BLOCK_M) * -(-64 * 9 // tile.BLOCK_N) * tile.SPLIT_K
    assert 132 / 2 < programs <= 2 * 132
    short = ConvGeometry(1, 64, 9, 9, 64, 7, 7, 3, 3)
    assert pick.pick(short, "wgrad", Operands(2, 8), H100).SPLIT_K == 1


def test_dgrad_counts_the_taps_it_multiplies() -> None:
    """A stride of two divides the arithmetic by four, and so the expected time of a large layer."""
    tile, operands = Tile(128, 128, 64, 8, 3), Operands(2, 8)
    dense, strided = (ConvGeometry(64, 512, 56, 56, 2048, 56 // s, 56 // s, 4, 4, 1, s, s) for s in (1, 2))
    times = [expected(tile, geometry, "dgrad", operands, H100).cycles for geometry in (dense, strided)]
    assert 3.5 < times[0] / times[1] < 4.5


def test_the_workspace_is_small_beside_what_is_read() -> None:
    """Partial sums, written and read in float32, are at most a tenth of the bytes of operands that programs read."""
    rng, split = random.Random(3), 0
    for _ in range(100):
        geometry, operands = some_geometry(rng), rng.choice(OPERANDS)
        tile = pick.pick(geometry, "wgrad", operands, rng.choice([H100, A100, MI300]))
        each = (tile.BLOCK_M + tile.BLOCK_N) * tile.BLOCK_K * operands.itemsize
        read = tile.blocks(geometry, "wgrad") * tile.steps(geometry, "wgrad") * each
        assert 2 * partial_bytes(tile, geometry, "wgrad") <= read / 10
        split += tile.SPLIT_K > 1
    assert split > 10


@pytest.mark.parametrize(
    ("geometry", "limit"),
    [
        (ConvGeometry(128, 64, 56, 56, 64, 56, 56, 1, 1), "memory"),
        (ConvGeometry(1, 64, 7, 7, 64, 7, 7, 1, 1), "waiting"),
        (ConvGeometry(128, 64, 56, 56, 64, 56, 56, 3, 3, pad_h=1, pad_w=1), "L2"),
        (ConvGeometry(128, 512, 28, 28, 512, 28, 28, 3, 3, pad_h=1, pad_w=1), "products"),
    ],
    ids=["memory", "waiting", "L2", "products"],
)
def test_what_the_model_expects_to_bound_a_layer(geometry: ConvGeometry, limit: str) -> None:
    operands = Operands(2, 8, tma_possible=True)
    tile = pick.pick(geometry, "fprop", operands, H100)
    assert expected(tile, geometry, "fprop", operands, H100).limit == limit


def test_less_overhang_is_expected_to_take_less_time() -> None:
    """For images of 7x7 pixels, a block of one pixel of 128 images is picked, and not 8x8 pixels of 2 images."""
    geometry, operands = (
        ConvGeometry(128, 512, 7, 7, 512, 7, 7, 3, 3, pad_h=1, pad_w=1),
        Operands(2, 8, tma_possible=True),
    )
    squares, pixels = (block_shapes.with_shape(Tile(128, 256, 64, 8, 4), shape) for shape in ((2, 8, 8), (128, 1, 1)))
    assert [tile.pixel_blocks(geometry, "fprop") for tile in (squares, pixels)] == [64, 49]
    assert pick.pick(geometry, "fprop", operands, H100) == pixels


def test_every_measured_tile_is_picked() -> None:
    """The measured tiles of the package are picked for the layers that they were measured for.

    So none is too large, or sums in another order.
    """
    for path in sorted(measured.FOLDER.glob("*.json")):
        table = json.loads(path.read_text())
        assert path.name == measured.file_of(table["gpu"])
        geometries = {layer.name: layer.geometry for layer in read()}
        gpu = Gpu.of(table["architecture"], table["multiprocessors"], table["gpu"])
        for row in table["rows"]:
            operator, itemsize, vector, whole, exact, varies, blocks, *_ = row["key"]
            operands = Operands(itemsize, vector, whole, exact, varies, blocks)
            layer = geometries[row["layer"]]
            geometry = layer.flattened() if layer.pointwise else layer
            assert pick.pick(geometry, operator, operands, gpu) == Tile(*row["tile"]), row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_few_variants_are_compiled(dtype: torch.dtype) -> None:
    """At most 64 variants of each kernel, for a thousand random layers in both memory formats, with bias or without."""
    rng = random.Random(1)
    found: dict[str, set[object]] = {}
    with convolution_precision("tf32"):
        for _ in range(1000):
            geometry, channels_last = some_geometry(rng), rng.random() < 0.7
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            given = meta_factors(geometry, dtype)
            factors = {name: factor.to(memory_format=memory_format) for name, factor in given.items()}
            for_y, for_x = (torch.empty(n, dtype=dtype, device="meta") for n in (geometry.F, geometry.C))
            has_bias = rng.random() < 0.5
            for operator, bias in (("fprop", for_y), ("dgrad", for_x), ("wgrad", None)):
                call = call_of(
                    operator,
                    geometry,
                    factors,
                    bias if has_bias else None,
                    finds_bias=has_bias and operator == "wgrad",
                    channels_last=channels_last,
                )
                for each in planned(call, gpu=H100).launches:
                    found.setdefault(each.kernel.__name__, set()).add(each.variant)
    assert len(found) == (7 if dtype == torch.bfloat16 else 6)  # wgrad has TMA tiles only for 16 bits
    assert max(len(variants) for variants in found.values()) <= 64, {k: len(v) for k, v in found.items()}
