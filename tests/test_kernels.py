"""The Triton kernels against torch in float64: on the GPU if there is one, else in the interpreter."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.cases import CONV, DTYPES, Case, random_case
from tests.guards import guarded
from tests.oracle import assert_close, forward
from tritonconv import launch, tiles
from tritonconv.ops import geometry_of

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
    """150 legal problems over every parameter together."""
    for seed in range(30 * block, 30 * block + 30):
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
    geometry = geometry_of("fprop", x.shape, weight.shape, ((2, width - 1), (1, 1), (0, 0), (1, 1), 1))
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


def test_offsets_beyond_32_bits() -> None:
    """Elements 2^30 apart, over memory that is only touched where a pixel lies."""
    apart = 2**30
    storage = torch.empty(3 * apart + 64, dtype=torch.float16) if launch.interpreted() else None
    if storage is None:
        storage = torch.empty(3 * apart + 64, dtype=torch.float16, device="cuda")
    x = storage.as_strided((4, 1, 3, 3), (apart, 9, 3, 1))
    x.copy_(torch.arange(36.0).reshape(4, 1, 3, 3))
    weight = torch.ones(1, 1, 2, 2, dtype=torch.float16, device=x.device)
    y = tritonconv.conv2d(x, weight, implementation="triton")
    expected = torch.nn.functional.conv2d(torch.arange(36.0).reshape(4, 1, 3, 3), torch.ones(1, 1, 2, 2))
    assert torch.equal(y.float().cpu(), expected)


def test_same_bits_every_time(device: str) -> None:
    case = Case("repeat", channels=(16, 24), padding=1)
    operands = case.operands(torch.float32, device)
    first = triton(case, *operands)
    assert all(torch.equal(triton(case, *operands), first) for _ in range(5))
