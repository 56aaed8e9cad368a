"""The Triton kernels against torch in float64: on the GPU if there is one, else in the interpreter."""

from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import tritonconv
from tests import guards
from tests.cases import CONV, DTYPES, TRANSPOSED, Case, laid_out
from tests.guards import guarded
from tests.oracle import PARTS, convolution_precision, expected_step, forward, hostile, precision_on, step
from tests.steps import steps
from tritonconv import launch, layout, operands, processor, tiles
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.ops import Sampling, geometry_of

KERNEL_DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    with convolution_precision("ieee"):
        yield


def plain(size: tuple[int, int]) -> Sampling:
    return Sampling(
        size, stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1, channels_last=True, implementation="triton"
    )


ALL = [pytest.param(case, id=f"{'transposed_' * case.transposed}{case}") for case in CONV + TRANSPOSED]


@pytest.mark.parametrize("case", ALL)
def test_integers_are_exact(case: Case, device: str) -> None:
    for dtype in KERNEL_DTYPES:
        for part in steps(case, dtype, device, "contiguous", integer=True):
            part.check_exact(f"in {dtype}")


@pytest.mark.parametrize("case", ALL)
def test_agrees_with_float64(case: Case, device: str) -> None:
    for part in steps(case, case.dtype, device, case.gradient):
        part.check(precision_on(device, case.dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [case for case in ALL if case.values[0].name in ("plain", "strided", "many_channels")])
def test_16_bits_are_rounded_once(case: Case, dtype: str, device: str) -> None:
    for part in steps(case, dtype, device, "contiguous"):
        assert part.actual.dtype == DTYPES[dtype]
        part.check(precision_on(device, dtype))


def test_padding_does_not_spread_nan(device: str) -> None:
    """NaN in one pixel reaches the positions that see it, and no other; in dgrad the other way round."""
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


def test_nan_stays_in_its_filter(device: str) -> None:
    """In wgrad NaN in one feature reaches the weights of its filter, and no other, nor another group's."""
    x, weight = torch.ones(2, 8, 6, 6, device=device), torch.ones(20, 4, 3, 3, device=device, requires_grad=True)
    y = tritonconv.conv2d(x, weight, groups=2, implementation="triton")
    gradient = torch.ones_like(y)
    gradient[1, 7, 2, 2] = float("nan")
    (found,) = torch.autograd.grad(y, weight, gradient)
    expected = torch.zeros_like(weight, dtype=torch.bool)
    expected[7] = True
    assert torch.equal(found.isnan(), expected)


def far_apart(shape: Sequence[int], axis: int, device: str) -> Tensor:
    """Uninitialised float16 with 2^30 elements from one index of `axis` to the next, of which few pages are touched."""
    strides = list(torch.empty(shape, device="meta").permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).stride())
    strides[axis] = 2**30
    storage = torch.empty((shape[axis] - 1) * 2**30 + 1024, dtype=torch.float16, device=device)
    return storage.as_strided(shape, strides)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("far", ["input", "gradient"])
@pytest.mark.parametrize("transposed", [False, True])
def test_operands_beyond_32_bits(transposed: bool, far: str, axis: int, device: str) -> None:
    """Image and features, in every operator that reads them."""
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


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize(("axis", "channels"), [(0, 4), (1, 4), (2, 4), (3, 4), (0, 8), (2, 8), (3, 8)])
def test_results_beyond_32_bits(
    operator: Operator, axis: int, channels: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight adjacent channels are stored as a vector, four, or those far apart, one by one."""
    case = Case("far", 4, (4, channels), (4, 4), (1, 1), transposed=operator == "dgrad")
    input, weight, bias = case.operands(torch.float16, device, integer=True)
    result = far_apart((4, channels, 4, 4), axis, device)
    monkeypatch.setattr(launch, "allocate", lambda *_: result)
    geometry = geometry_of(operator, input.shape, weight.shape, plain((4, 4)))
    plan = launch.PLANS[operator](input, weight, bias, geometry, True, processor.device_of(input.device))
    arguments = plan.launches[0].arguments
    assert arguments["ALIGN_Y" if operator == "fprop" else "ALIGN_X"] == (8 if channels == 8 else 1)
    assert arguments["WIDE"]
    launch.run(plan)
    assert torch.equal(result.double(), forward(case, input, weight, bias))


@pytest.mark.parametrize(("setting", "expected"), [("ieee", "ieee"), ("tf32", "tf32"), ("none", "ieee")])
def test_precision_follows_the_switch(setting: str, expected: str) -> None:
    x, weight = torch.empty(1, 16, 4, 4), torch.empty(16, 16, 1, 1)
    geometry = geometry_of("fprop", x.shape, weight.shape, plain((4, 4)))
    with convolution_precision(setting):
        for plan in (
            launch.fprop(x, weight, None, geometry, True, tiles.INTERPRETER),
            launch.dgrad(x, weight, None, geometry, True, tiles.INTERPRETER),
            launch.wgrad(x, x, False, geometry, True, tiles.INTERPRETER),
        ):
            assert plan.launches[0].arguments["PRECISION"] == expected
        assert operands.summary(x, 4, True).exact == (expected == "ieee")
        assert not operands.summary(x.half(), 8, True).exact


def test_what_is_copied() -> None:
    """Sides whose whole vectors of channels are not adjacent, and weights in another order: nothing else."""
    image = torch.randn(1, 16, 4, 4)
    copied, align = layout.adjacent(image, 16)
    assert torch.equal(copied, image)
    assert layout.alignment(copied, 16) == align == 4
    assert layout.adjacent(copied, 16)[0] is copied
    assert layout.adjacent(image[:, :3], 3)[0].data_ptr() == image.data_ptr()
    weight = torch.randn(16, 16, 3, 3).to(memory_format=torch.channels_last)
    assert layout.filters_last(weight).data_ptr() == weight.data_ptr()
    last = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last)
    assert layout.alignment(last, 8) == 4
    assert layout.alignment(guards.fence(last)[1][1 : 1 + last.numel()].as_strided(last.shape, last.stride()), 8) == 1
    for strides in ((65, 1, 16, 4), (68, 1, 17, 4), (80, 1, 20, 5)):
        assert layout.alignment(torch.empty_strided((2, 4, 4, 4), strides), 4) == 1
    assert layout.alignment(torch.empty_strided((2, 4, 4, 4), (80, 1, 20, 4)), 4) == 4
    for some in (weight[::2], weight[:, :, :2], weight[:1].expand(6, -1, -1, -1), weight[:, :5]):
        for copied, order in (
            (layout.filters_last(some), (0, 2, 3, 1)),
            (layout.channels_first(some, 1), (1, 2, 3, 0)),
        ):
            assert torch.equal(copied.view(-1), some.permute(order).flatten())
    shifted = laid_out(torch.randn(8, 8, 1, 1), "offset")
    assert shifted.data_ptr() % 16
    assert layout.filters_last(shifted).data_ptr() % 16 == layout.channels_first(shifted, 2).data_ptr() % 16 == 0


def test_when_offsets_are_wide() -> None:
    """From the first that does not fit in 32 bits; in wgrad, for each position's first tap within one image."""
    assert layout.wide(torch.empty_strided((2, 1, 1, 1), (2**31, 1, 1, 1), device="meta"))
    assert not layout.wide(torch.empty_strided((2, 1, 1, 1), (2**31 - 1, 1, 1, 1), device="meta"))
    x = torch.empty_strided((1, 1, 5, 1), (1, 1, 3 * 2**28, 1), device="meta")
    y = torch.empty_strided((1, 1, 2, 1), (1, 1, 1, 1), device="meta")
    for stride, wide in ((3, True), (2, True), (1, False)):
        geometry = ConvGeometry(1, 1, 5, 1, 1, 2, 1, 1, 1, stride_h=stride)
        assert launch.wgrad(x, y, False, geometry, False, tiles.INTERPRETER).launches[0].arguments["WIDE"] is wide
    x = torch.empty_strided((1, 1, 1, 5), (1, 1, 1, 3 * 2**28), device="meta")
    y = torch.empty_strided((1, 1, 1, 2), (1, 1, 1, 1), device="meta")
    for stride, wide in ((3, True), (2, True), (1, False)):
        for stride_h, dilation_w in ((1, 1), (1, 4), (4, 1)):
            geometry = ConvGeometry(
                1, 1, 1, 5, 1, 1, 2, 1, 1, stride_h=stride_h, stride_w=stride, dilation_w=dilation_w, dilation_h=5
            )
            assert launch.wgrad(x, y, False, geometry, False, tiles.INTERPRETER).launches[0].arguments["WIDE"] is wide


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("splits", [1, 2, 3, 7])
def test_split_reductions(splits: int, groups: int, device: str) -> None:
    """Steps that the splits do not divide, fewer steps than splits, several tiles each way, and the bias's turns."""
    for B, P, Q in ((2, 9, 7), (1, 3, 5)):
        geometry = ConvGeometry(B, 5 * groups, P + 1, Q, 18 * groups, P, Q, 2, 3, groups, pad_w=1)
        generator = torch.Generator().manual_seed(0)
        x, y = (
            torch.randint(-2, 3, shape, generator=generator).to(device, torch.float32)
            for shape in (geometry.image_shape, geometry.feature_shape)
        )
        tile = tiles.Tile(16, 16, 16, 4, 1, SPLIT_K=splits)
        plan = launch.wgrad(guarded(x), guarded(y), True, geometry, True, processor.device_of(x.device), tile)
        weight, bias = launch.run(plan)
        expected = torch.nn.grad.conv2d_weight(
            x.double(), geometry.weight_shape, y.double(), padding=(0, 1), groups=groups
        )
        assert torch.equal(weight.double(), expected)
        assert torch.equal(bias.double(), y.double().sum((0, 2, 3)))


def test_sums_of_the_bias_are_rounded_once(device: str) -> None:
    """Two programs sum parts of it: 2049, which float16 does not hold, and -2048."""
    geometry = ConvGeometry(1, 65, 1, 128, 1, 1, 128, 1, 1)
    x, y = torch.zeros(1, 65, 1, 128, device=device).half(), torch.zeros(1, 1, 1, 128, device=device).half()
    y[0, 0, 0, [0, 1, 64]] = torch.tensor([2048.0, 1, -2048], device=device).half()
    tile = tiles.Tile(16, 64, 64, 4, 1)
    _, bias = launch.run(launch.wgrad(x, y, True, geometry, True, processor.device_of(x.device), tile))
    assert bias.tolist() == [1]


def test_more_filters_than_one_program_sums(device: str) -> None:
    """The second step of wgrad takes two programs, also for the bias."""
    geometry = ConvGeometry(2, 1, 1, 1, launch.SUM_BLOCK + 8, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randint(-2, 3, shape, generator=generator).to(device, torch.float32)
        for shape in (geometry.image_shape, geometry.feature_shape)
    )
    weight, bias = launch.run(launch.wgrad(x, y, True, geometry, True, processor.device_of(x.device)))
    assert torch.equal(weight[:, 0, 0, 0], (x * y).sum((0, 2, 3)))
    assert torch.equal(bias, y.sum((0, 2, 3)))


def test_only_a_tile_that_was_too_large_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For its operator on its device; for wgrad however it splits its sum, which stays as it is."""
    device, long = tiles.Device.of(90, 132), ConvGeometry(128, 64, 58, 58, 64, 56, 56, 3, 3)
    aligned = tiles.Operands(2, 8)
    before = {operator: launch.tile_for(long, operator, aligned, device) for operator in launch.PLANS}
    splits = before["wgrad"].SPLIT_K
    assert splits > 1
    unfit = ("wgrad", device, tiles.replace(before["wgrad"], SPLIT_K=1))
    monkeypatch.setattr(launch, "too_large", {unfit})
    assert launch.tile_for(long, "wgrad", aligned, device) == tiles.replace(tiles.least(2), SPLIT_K=splits)
    for operator in ("fprop", "dgrad"):
        assert launch.tile_for(long, operator, aligned, device) == before[operator]
    other = tiles.Device.of(80, 108)
    assert launch.tile_for(long, "wgrad", aligned, other) == tiles.pick(long, "wgrad", aligned, other)


def test_one_shared_workspace_is_all_the_memory(device: str) -> None:
    """wgrad takes SPLIT_K weights and, for the bias, SPLIT_K times the tiles of columns, in float32."""
    x, y = torch.randn(2, 16, 6, 6, device=device), torch.randn(2, 32, 6, 6, device=device)
    geometry = geometry_of("wgrad", x.shape, y.shape, plain((1, 1)))
    tile = tiles.Tile(16, 16, 16, 4, 1, SPLIT_K=3)
    multiply, add = launch.wgrad(x, y, True, geometry, True, tiles.INTERPRETER, tile).launches
    assert multiply.arguments["partials_ptr"].shape == (3, 32, 16, 1, 1)
    assert multiply.arguments["bias_partials_ptr"].shape == (3, 32)
    assert multiply.programs == 3 * 2
    assert add.programs == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_same_bits_every_time(transposed: bool, device: str) -> None:
    """A hundred times on a GPU; in the interpreter, which runs programs one after another, a few."""
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
