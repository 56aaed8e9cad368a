"""The Triton kernels against torch in float64: on the GPU if there is one, else in the interpreter."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.cases import CONV, DTYPES, Case, laid_out, random_case
from tests.guards import guarded
from tests.oracle import assert_close, forward
from tritonconv import launch, tiles
from tritonconv.ops import Sampling, geometry_of

pytestmark = pytest.mark.usefixtures("guarded_memory")

KERNEL_DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    with convolution_precision("ieee"):
        yield


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    """torch's switch for float32 convolutions, for a while."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def plain(size: tuple[int, int]) -> Sampling:
    return Sampling(size, stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1, implementation="triton")


def precision(dtype: str) -> str:
    return "bfloat16 cut" if dtype == "bfloat16" and launch.interpreted() else dtype


def triton(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operands = (guarded(t) for t in (input, weight, bias))
    return tritonconv.conv2d(*operands, **case.arguments, implementation="triton")


@pytest.mark.parametrize("case", CONV, ids=str)
def test_integers_are_exact(case: Case, device: str) -> None:
    for dtype in KERNEL_DTYPES:
        operands = case.operands(DTYPES[dtype], device, integer=True)
        assert torch.equal(triton(case, *operands).double(), forward(case, *operands)), dtype


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("case", CONV, ids=str)
def test_agrees_with_float64(case: Case, dtype: str, device: str) -> None:
    operands = case.operands(DTYPES[dtype], device)
    result = triton(case, *operands)
    assert result.dtype == DTYPES[dtype]
    assert_close(result, forward(case, *operands), precision(dtype))


@pytest.mark.parametrize("block", range(5))
def test_random_problems(block: int, device: str) -> None:
    """170 legal problems over every parameter together, some 20 of them with an empty batch."""
    for seed in range(34 * block, 34 * block + 34):
        case = random_case(seed)
        operands = case.operands(torch.float32, device, seed=seed)
        assert_close(triton(case, *operands), forward(case, *operands), "float32", str(case))


def every_tile() -> list[tuple[str, tiles.Operands, tiles.Tile]]:
    rows = []
    for dtype, itemsize, exact in (
        ("bfloat16", 2, False),
        ("float16", 2, False),
        ("float32", 4, True),
        ("float32", 4, False),
    ):
        for vector in sorted({1, 2, 4, 16 // itemsize}):
            operands = tiles.Operands(itemsize, vector, exact=exact)
            rows += [(dtype, operands, tile) for tile in tiles.shipped(operands)]
    return rows


@pytest.mark.parametrize(
    ("dtype", "operands", "tile"),
    every_tile(),
    ids=lambda v: (
        "x".join(map(str, (v.BLOCK_M, v.BLOCK_N, v.BLOCK_K))) if isinstance(v, tiles.Tile) else getattr(v, "vector", v)
    ),
)
def test_every_shipped_tile(dtype: str, operands: tiles.Operands, tile: tiles.Tile, device: str) -> None:
    """Two tiles of pixels and of filters, ragged in M, N and K, with the alignment that the tile is meant for."""
    if device == "cuda" and not tiles.fits(tile, operands.itemsize, launch.device_of(torch.device("cuda", 0))):
        pytest.skip("this GPU has less shared memory")
    channels = tile.BLOCK_K + operands.vector
    width = tile.BLOCK_M // 4 + 3
    case = Case("tile", 2, (channels, tile.BLOCK_N + 8), (2, width), (1, 2), x="channels_last", weight="channels_last")
    x, weight, bias = case.operands(DTYPES[dtype], device, integer=True)
    geometry = geometry_of("fprop", x.shape, weight.shape, plain((2, width - 1)))
    y = launch.allocate(geometry.feature_shape, x, channels_last=True)
    with convolution_precision("ieee" if operands.exact else "tf32"):
        launch.launch_fprop(guarded(x), launch.filters_last(weight), bias, y, geometry, tile)
    assert launch.alignment(x, channels) >= operands.vector
    assert torch.equal(y.double(), forward(case, x, weight, bias))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter computes TF32 as float32: needs a GPU")
@pytest.mark.parametrize("case", CONV, ids=str)
def test_tf32(case: Case, device: str) -> None:
    operands = case.operands(torch.float32, device)
    with convolution_precision("tf32"):
        assert_close(triton(case, *operands), forward(case, *operands), "tf32")


def test_padding_does_not_spread_nan(device: str) -> None:
    """NaN in one pixel reaches the positions that see it, and no other."""
    x = torch.ones(2, 8, 6, 6, device=device)
    x[0, 3, 0, 0] = float("nan")
    y = tritonconv.conv2d(x, torch.ones(16, 8, 3, 3, device=device), padding=1, implementation="triton")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[0, :, :2, :2] = True
    assert torch.equal(y.isnan(), expected)


def far_apart(shape: tuple[int, ...], axis: int, device: str) -> Tensor:
    """Uninitialised float16 with 2^30 elements from one index of `axis` to the next, of which few pages are touched."""
    strides = list(torch.empty(shape, device="meta").permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).stride())
    strides[axis] = 2**30
    storage = torch.empty((shape[axis] - 1) * 2**30 + 1024, dtype=torch.float16, device=device)
    return storage.as_strided(shape, strides)


@pytest.mark.parametrize("axis", range(4))
def test_image_offsets_beyond_32_bits(axis: int, device: str) -> None:
    case = Case("far", 4, (4, 3), (4, 4), (2, 2), padding=1)
    near, weight, bias = case.operands(torch.float16, device, integer=True)
    x = far_apart(case.input_shape, axis, device)
    x.copy_(near)
    y = tritonconv.conv2d(x, weight, bias, **case.arguments, implementation="triton")
    assert torch.equal(y.double(), forward(case, near, weight, bias))


@pytest.mark.parametrize(("axis", "filters"), [(0, 4), (1, 4), (2, 4), (3, 4), (0, 8), (2, 8), (3, 8)])
def test_feature_offsets_beyond_32_bits(axis: int, filters: int, device: str) -> None:
    """With 8 adjacent filters they are stored as a vector, with 4, or far apart, one by one."""
    case = Case("far", 4, (4, filters), (4, 4), (1, 1))
    x, weight, bias = case.operands(torch.float16, device, integer=True)
    geometry = geometry_of("fprop", x.shape, weight.shape, plain((4, 4)))
    y = far_apart(geometry.feature_shape, axis, device)
    tile = tiles.Tile(16, 16, 16, 4, 1)
    arguments = launch.fprop_arguments(x, weight, bias, y, geometry, tile)
    assert arguments["ALIGN_Y"] == (8 if filters == 8 else 1)
    assert arguments["WIDE_Y"]
    launch.launch_fprop(x, launch.filters_last(weight), bias, y, geometry, tile)
    assert torch.equal(y.double(), forward(case, x, weight, bias))


@pytest.mark.parametrize(("setting", "expected"), [("ieee", "ieee"), ("tf32", "tf32"), ("none", "ieee")])
def test_precision_follows_the_switch(setting: str, expected: str) -> None:
    x, y = torch.empty(1, 16, 4, 4), torch.empty(1, 16, 4, 4)
    geometry = geometry_of("fprop", x.shape, (16, 16, 1, 1), plain((4, 4)))
    with convolution_precision(setting):
        arguments = launch.fprop_arguments(
            x, torch.empty(16, 16, 1, 1), None, y, geometry, tiles.Tile(16, 16, 16, 4, 1)
        )
        assert arguments["PRECISION"] == expected
        assert launch.operands(x, y, geometry).exact == (expected == "ieee")
        assert not launch.operands(x.half(), y.half(), geometry).exact


def test_what_is_copied() -> None:
    """An image whose whole vectors of channels are not adjacent, and a weight in another order: nothing else."""
    geometry = geometry_of("fprop", (1, 16, 4, 4), (16, 16, 1, 1), plain((4, 4)))
    image = torch.randn(1, 16, 4, 4)
    copied = launch.lay_out(image, geometry)
    assert torch.equal(copied, image)
    assert launch.alignment(copied, 16) == 4
    assert launch.lay_out(copied, geometry) is copied
    few = geometry_of("fprop", (1, 3, 4, 4), (16, 3, 1, 1), plain((4, 4)))
    assert launch.lay_out(image[:, :3], few).data_ptr() == image.data_ptr()
    weight = torch.randn(16, 16, 3, 3).to(memory_format=torch.channels_last)
    assert launch.filters_last(weight).data_ptr() == weight.data_ptr()
    shifted = laid_out(torch.randn(8, 8, 1, 1), "offset")
    assert shifted.data_ptr() % 16
    assert launch.filters_last(shifted).data_ptr() % 16 == 0


def test_same_bits_every_time(device: str) -> None:
    case = Case("repeat", channels=(16, 24), padding=1)
    operands = case.operands(torch.float32, device)
    first = triton(case, *operands)
    assert all(torch.equal(triton(case, *operands), first) for _ in range(5))
