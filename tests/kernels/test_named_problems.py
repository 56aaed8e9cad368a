"""The Triton kernels against torch in float64: on the GPU if there is one, or else in the interpreter."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import CONV, DTYPES, TRANSPOSED, Case
from tests.support.guards import guarded
from tests.support.oracle import PARTS, convolution_precision, expected_step, forward, hostile, precision_on, step
from tests.support.plans import planned
from tests.support.selection import in_dtypes
from tests.support.steps import steps
from tests.support.varying import VARYING, VARYING_TRANSPOSED
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.launch import layout, split_k, start
from tritonconv.tiling.tile import Tile

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    with convolution_precision("ieee"):
        yield


SHARED = CONV + TRANSPOSED
VARIED = VARYING + VARYING_TRANSPOSED
ALL = [pytest.param(case, id=case.title) for case in SHARED + VARIED]
# The first case notices most mistakes, the next one most of the remaining mistakes, and so on.
FIRST = (
    "strided",
    "aligned_grouped",
    "local_grouped",
    "per_sample_strided",
    "dynamic_bias_of_samples",
    "transposed_local_strided",
    "transposed_uneven_kernel",
    "tall_kernel",
    "grouped",
    "many_channels",
    "dilation_and_stride_share_factors",
    "kernel_taller_than_the_bits",
    "transposed_kernel_taller_than_the_bits",
    "transposed_kernel_wider_than_the_bits",
    "many_tiles_in_a_phase",
)


def first_first() -> list[Any]:
    """Return all cases as parameters of a test. Those in `FIRST` come first, and run before other tests."""
    titles = {case.title: case for case in SHARED + VARIED}
    early = [pytest.param(titles[title], id=title, marks=pytest.mark.first) for title in FIRST]
    return early + [pytest.param(case, id=title) for title, case in titles.items() if title not in FIRST]


@pytest.mark.parametrize("case", first_first())
def test_agrees_with_float64(case: Case, device: str) -> None:
    for part in steps(case, case.dtype, device, case.gradient):
        part.check(precision_on(device, case.dtype))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*in_dtypes(SHARED), *(pytest.param(case, case.dtype, id=case.title) for case in VARIED)],
)
def test_integers_are_exact(case: Case, dtype: str, device: str) -> None:
    for part in steps(case, dtype, device, "contiguous", integer=True):
        part.check_exact(f"in {dtype}")


def test_an_empty_batch_of_a_pointwise_convolution(device: str) -> None:
    """It is not flattened to one row of pixels: kernels divide by the pixels of an image, which would be zero."""
    for part in steps(Case("empty", 0, (3, 5), kernel=(1, 1)), "float32", device, "contiguous", integer=True):
        part.check_exact()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [case for case in ALL if case.values[0].name in ("plain", "strided", "many_channels")])
def test_16_bits_are_rounded_once(case: Case, dtype: str, device: str) -> None:
    for part in steps(case, dtype, device, "contiguous"):
        assert part.actual.dtype == DTYPES[dtype]
        part.check(precision_on(device, dtype))


@pytest.mark.first
def test_padding_does_not_spread_nan(device: str) -> None:
    """NaN in one pixel reaches only the positions that see it. In dgrad, NaN in a position reaches only its pixels."""
    x, weight = torch.ones(2, 8, 6, 6, device=device), torch.ones(16, 8, 3, 3, device=device)
    x[0, 3, 0, 0] = float("nan")
    y = tritonconv.conv2d(x, weight, padding=1, implementation="triton")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[0, :, :2, :2] = True
    assert torch.equal(y.isnan(), expected)
    spread = tritonconv.conv_transpose2d(x, weight.transpose(0, 1), stride=2, implementation="triton")
    expected = torch.zeros_like(spread, dtype=torch.bool)
    expected[0, :, :3, :3] = True
    assert torch.equal(spread.isnan(), expected)


@pytest.mark.first
def test_nan_stays_in_its_filter(device: str) -> None:
    """In wgrad, NaN in one feature reaches the weights of its filter, but no other filter or group."""
    x, weight = torch.ones(2, 8, 6, 6, device=device), torch.ones(20, 4, 3, 3, device=device, requires_grad=True)
    y = tritonconv.conv2d(x, weight, groups=2, implementation="triton")
    gradient = torch.ones_like(y)
    gradient[1, 7, 2, 2] = float("nan")
    (found,) = torch.autograd.grad(y, weight, gradient)
    expected = torch.zeros_like(weight, dtype=torch.bool)
    expected[7] = True
    assert torch.equal(found.isnan(), expected)


def far_apart(shape: Sequence[int], axis: int, device: str) -> Tensor:
    """Return uninitialised float16 with 2^30 elements from one index of `axis` to the next. Tests touch few pages."""
    strides = list(torch.empty(shape, device="meta").permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).stride())
    strides[axis] = 2**30
    storage = torch.empty((shape[axis] - 1) * 2**30 + 1024, dtype=torch.float16, device=device)
    return storage.as_strided(shape, strides)


@pytest.mark.first
@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("far", ["input", "gradient"])
@pytest.mark.parametrize("transposed", [False, True])
def test_operands_beyond_32_bits(transposed: bool, far: str, axis: int, device: str) -> None:
    """The image or the features are that large, in every operator that reads them."""
    case = Case("far", 4, (3, 3), (4, 4), (3, 3), padding=1, transposed=transposed)
    near, weight, bias = case.operands(torch.float16, device, integer=True)
    gradient = hostile(forward(case, near, weight, bias).shape, torch.float16, "contiguous", integer=True).to(device)
    tensors = {"input": near, "gradient": gradient}
    tensors[far] = far_apart(tensors[far].shape, axis, device).copy_(tensors[far])
    function = partial(
        tritonconv.conv_transpose2d if transposed else tritonconv.conv2d, **case.arguments, implementation="triton"
    )
    actual = step(function, (tensors["input"], weight, bias), tensors["gradient"])
    for part, a, e in zip(PARTS, actual, expected_step(case, (near, weight, bias), gradient), strict=True):
        assert torch.equal(a.double(), e), part


@pytest.mark.first
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize(("axis", "channels"), [(0, 4), (1, 4), (2, 4), (3, 4), (0, 8), (2, 8), (3, 8)])
def test_results_beyond_32_bits(
    operator: Operator, axis: int, channels: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight adjacent channels are stored as a vector. Four channels, or channels far apart, are stored one by one."""
    case = Case("far", 4, (4, channels), (4, 4), (1, 1), transposed=operator == "dgrad")
    input, weight, bias = case.operands(torch.float16, device, integer=True)
    result = far_apart((4, channels, 4, 4), axis, device)
    monkeypatch.setattr(layout, "allocate", lambda *_: result)
    plan = planned(Call.of_geometry(operator, case.geometry, (input, weight), bias))
    arguments = plan.launches[0].arguments
    assert arguments["VECTOR_Y" if operator == "fprop" else "VECTOR_X"] == (8 if channels == 8 else 1)
    assert arguments["WIDE"]
    start.run(plan)
    assert torch.equal(result.double(), forward(case, input, weight, bias))


@pytest.mark.first
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("splits", [1, 2, 3, 7])
def test_split_reductions(splits: int, groups: int, device: str) -> None:
    """Splits do not divide the steps, or exceed them. With several tiles each way, programs sum the bias in turns."""
    for B, P, Q in ((2, 9, 7), (1, 3, 5)):
        geometry = ConvGeometry(B, 5 * groups, P + 1, Q, 18 * groups, P, Q, 2, 3, groups, pad_w=1)
        generator = torch.Generator().manual_seed(0)
        x, y = (
            torch.randint(-2, 3, shape, generator=generator).to(device, torch.float32)
            for shape in (geometry.image_shape, geometry.feature_shape)
        )
        tile = Tile(16, 16, 16, 4, 1, SPLIT_K=splits)
        plan = planned(Call.of_geometry("wgrad", geometry, (guarded(x), guarded(y)), finds_bias=True), tile)
        weight, bias = start.run(plan)
        expected = torch.nn.grad.conv2d_weight(
            x.double(), geometry.weight_shape, y.double(), padding=(0, 1), groups=groups
        )
        assert torch.equal(weight.double(), expected)
        assert torch.equal(bias.double(), y.double().sum((0, 2, 3)))


def test_sums_of_the_bias_are_rounded_once(device: str) -> None:
    """Two programs sum parts of the bias: 2049, which float16 can not hold, and -2048."""
    geometry = ConvGeometry(1, 65, 1, 128, 1, 1, 128, 1, 1)
    x, y = torch.zeros(1, 65, 1, 128, device=device).half(), torch.zeros(1, 1, 1, 128, device=device).half()
    y[0, 0, 0, [0, 1, 64]] = torch.tensor([2048.0, 1, -2048], device=device).half()
    tile = Tile(16, 64, 64, 4, 1)
    _, bias = start.run(planned(Call.of_geometry("wgrad", geometry, (x, y), finds_bias=True), tile))
    assert bias.tolist() == [1]


def test_more_filters_than_one_program_sums(device: str) -> None:
    """Two programs of the kernel that adds up partial sums also add up the bias."""
    geometry = ConvGeometry(2, 1, 1, 1, split_k.SUM_BLOCK + 8, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randint(-2, 3, shape, generator=generator).to(device, torch.float32)
        for shape in (geometry.image_shape, geometry.feature_shape)
    )
    weight, bias = start.run(planned(Call.of_geometry("wgrad", geometry, (x, y), finds_bias=True)))
    assert torch.equal(weight[:, 0, 0, 0], (x * y).sum((0, 2, 3)))
    assert torch.equal(bias, y.sum((0, 2, 3)))


@pytest.mark.parametrize("transposed", [False, True])
def test_same_bits_every_time(transposed: bool, device: str) -> None:
    """A GPU repeats the step a hundred times.

    The interpreter runs programs one after another, so it repeats the step twice.
    """
    case = Case("repeat", 4, (16, 24), (9, 8), padding=1, stride=(1, 2), transposed=transposed)
    operands = case.operands(torch.float32, device)
    function = tritonconv.conv_transpose2d if transposed else tritonconv.conv2d
    gradient = torch.randn(forward(case, *operands).shape, device=device)

    def bits() -> list[Tensor]:
        return step(partial(function, **case.arguments, implementation="triton"), operands, gradient)

    first = bits()
    for _ in range(100 if device == "cuda" else 2):
        assert all(torch.equal(a, b) for a, b in zip(bits(), first, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter computes TF32 as float32: needs a GPU")
@pytest.mark.parametrize("case", ALL)
def test_tf32(case: Case, device: str) -> None:
    with convolution_precision("tf32"):
        for part in steps(case, "float32", device, "channels_last"):
            part.check("float32" if part.name == "gradient of bias" else "tf32")
