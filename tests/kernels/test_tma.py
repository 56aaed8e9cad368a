"""Kernels that copy whole blocks of pixels: all block shapes, ragged at each edge, with strides, dilation and NaN."""

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d

from tests.support.blocks import FOLDED, LEAST, PROBLEMS, expected, factors, guarded_call, tile_in
from tests.support.cases import laid_out
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.launch import start
from tritonconv.tiling.block_shapes import BlockShape, candidate_shapes, whole_rows, with_shape
from tritonconv.tiling.tile import Tile

# On a GPU these tests find most mistakes, so they run first.
pytestmark = [pytest.mark.gpu, pytest.mark.oldest, *[pytest.mark.first] * torch.cuda.is_available()]


def cases() -> list[Any]:
    """Return each operator's problems with block shapes.

    For fprop and dgrad, the plain problem has all candidate shapes, and each other problem has one of them. For wgrad,
    each problem has all candidate shapes, and whole rows if they fit. The first shape of each problem runs first.
    """
    found = []
    for operator in OPERATORS:
        every = candidate_shapes(LEAST, operator)
        for index, name in enumerate(PROBLEMS):
            some = every if name == "plain" or operator == "wgrad" else [every[index % len(every)]]
            if operator == "wgrad":
                some = some + whole_rows(LEAST, PROBLEMS[name])
            found += [(operator, name, shape) for shape in some]
    early = {(operator, name): shape for operator, name, shape in reversed(found)}
    return [
        pytest.param(
            operator,
            PROBLEMS[name],
            shape,
            id=f"{operator}-{name}-{'.'.join(map(str, shape))}",
            marks=[pytest.mark.first] if early[operator, name] == shape else [],
        )
        for operator, name, shape in found
    ]


@pytest.fixture(autouse=True)
def copies_blocks() -> None:
    """Skip the test on a GPU without TMA."""
    if torch.cuda.is_available() and not runtime.gpu_of(torch.device("cuda")).architecture.tma:
        pytest.skip("this GPU does not copy blocks of pixels")


@pytest.mark.parametrize(("operator", "geometry", "shape"), cases())
def test_integers_are_exact(operator: Operator, geometry: ConvGeometry, shape: BlockShape, device: str) -> None:
    x, weight, y = factors(geometry, device)
    sides = {"fprop": y, "dgrad": x, "wgrad": weight}
    added = None if operator == "wgrad" else (torch.arange(sides[operator].shape[1], device=device) % 7).half()
    call = guarded_call(operator, geometry, x, weight, y, bias=added, finds_bias=operator == "wgrad")
    plan = planned(call, tile_in(operator, shape))
    assert plan.launches[0].kernel.__name__ == f"{operator}_tma_kernel"
    if operator != "wgrad":
        name = {"fprop": "LOADS_FOLDED", "dgrad": "STORES_FOLDED"}[operator]
        assert plan.launches[0].arguments[name] == (geometry in FOLDED)
    result, *bias = start.run(plan)
    wanted = expected(geometry, x, weight, y)[operator]
    if added is not None:
        wanted = wanted + added.double()[:, None, None]
    assert torch.equal(result.double(), wanted)
    assert all(torch.equal(each.double(), y.double().sum((0, 2, 3))) for each in bias)


@pytest.mark.parametrize("name", ["plain", "valid", "groups", "stride_2", "folded", "far_padding"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_results_that_leave_in_halves(operator: Operator, name: str, device: str) -> None:
    """Results are stored in halves, as by most shipped tiles: those whose warps have rows of both halves."""
    geometry = PROBLEMS[name]
    x, weight, y = factors(geometry, device)
    tile = with_shape(Tile(LEAST, 2 * LEAST, LEAST, LEAST // 16, num_stages=2), candidate_shapes(LEAST, operator)[0])
    assert tile.halves
    added = (torch.arange({"fprop": y, "dgrad": x}[operator].shape[1], device=device) % 7).half()
    plan = planned(guarded_call(operator, geometry, x, weight, y, bias=added), tile)
    assert plan.launches[0].arguments["HALVES"]
    wanted = expected(geometry, x, weight, y)[operator] + added.double()[:, None, None]
    assert torch.equal(start.run(plan)[0].double(), wanted)


@pytest.mark.parametrize("name", ["plain", "folded"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_programs_that_compute_several_tiles(operator: Operator, name: str, device: str) -> None:
    """One program computes all tiles, one after the other."""
    geometry = PROBLEMS[name]
    x, weight, y = factors(geometry, device)
    plan = planned(guarded_call(operator, geometry, x, weight, y), tile_in(operator))
    alone = plan._replace(launches=[each._replace(programs=1) for each in plan.launches])
    assert torch.equal(start.run(alone)[0].double(), expected(geometry, x, weight, y)[operator])


def test_a_part_of_a_wider_tensor_folds_as_well(device: str) -> None:
    """A part of a wider tensor sums in the same order as its copy."""
    geometry = PROBLEMS["folded"]
    x, weight, _ = factors(geometry, device)
    x, weight = torch.randn_like(x), torch.randn_like(weight)
    wider = torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)
    tile = tile_in("fprop")
    images = (x, wider[:, : geometry.C])
    plans = [planned(Call.of_geometry("fprop", geometry, (each, weight)), tile) for each in images]
    assert [plan.launches[0].arguments["LOADS_FOLDED"] for plan in plans] == [True, True]
    assert torch.equal(*(start.run(plan)[0] for plan in plans))


@pytest.mark.parametrize("cropped", ["rows", "columns"])
def test_a_cropped_gradient(cropped: str, device: str) -> None:
    """The positions of a crop are unevenly spaced, unless only rows of one image are cropped: TMA can copy these."""
    geometry = ConvGeometry(B=1, C=LEAST, H=5, W=8, F=LEAST, P=5, Q=8, R=3, S=3, pad_h=1, pad_w=1)
    x, weight, _ = factors(geometry, device)
    whole = laid_out(torch.randint(-2, 3, (1, LEAST, 7, 10)).to(device, torch.float16), "channels_last")
    y = whole[:, :, 1:6, 1:9] if cropped == "columns" else laid_out(whole[..., :8], "channels_last")[:, :, 1:6]
    plan = planned(Call.of_geometry("wgrad", geometry, (x, y)))
    if not torch.cuda.is_available():
        assert plan.tile.uses_tma == (cropped == "rows")
    assert torch.equal(start.run(plan)[0].double(), expected(geometry, x, weight, y)["wgrad"])


@pytest.mark.parametrize("name", ["plain", "valid", "groups", "stride_2", "far_padding", "pixels_without_taps"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_nan_goes_no_further_than_its_pixel_is_seen(operator: Operator, name: str, device: str) -> None:
    """NaN is planted in one channel of the last pixel of x, and of a last position of y."""
    geometry = PROBLEMS[name]
    x, weight, y = factors(geometry, device)
    if operator != "dgrad":
        x[-1, 3, -1, -1] = float("nan")
    if operator != "fprop":
        y[0, 5, -1, -1] = float("nan")
    plan = planned(guarded_call(operator, geometry, x, weight, y), tile_in(operator))
    (result,) = start.run(plan)
    wanted = expected(geometry, x, weight, y)[operator]
    assert torch.equal(result.isnan(), wanted.isnan())
    assert torch.equal(result.double().nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_nan_in_a_filter_stays_in_its_group(operator: Operator, device: str) -> None:
    """A step of 16 channels reads beyond the 24 channels of a group, but the NaN there does not count."""
    geometry = ConvGeometry(B=1, C=48, H=3, W=3, F=48, P=3, Q=3, R=1, S=1, G=2, stride_h=1, pad_h=0)
    x, weight, y = factors(geometry, device)
    weight[24:] = float("nan")
    (result,) = start.run(planned(guarded_call(operator, geometry, x, weight, y), tile_in(operator)))
    assert not result[:, :24].isnan().any()
    assert result[:, 24:].isnan().all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_nan_in_a_tap_goes_no_further_than_it_is_seen(operator: Operator, dtype: str, device: str) -> None:
    """A step reads beyond the 24 channels or filters that exist, where other taps lie.

    In dgrad, the phases see different taps.
    """
    geometry = ConvGeometry(B=1, C=24, H=6, W=6, F=24, P=3, Q=3, R=2, S=2, stride_h=2, stride_w=2)
    x, weight, y = (t.to(getattr(torch, dtype)) for t in factors(geometry, device))
    weight[3, 5, 0, 1] = float("nan")
    with convolution_precision("tf32"):
        (result,) = start.run(planned(guarded_call(operator, geometry, x, weight, y), tile_in(operator)))
    wanted = expected(geometry, x, weight, y)[operator]
    assert torch.equal(result.isnan(), wanted.isnan())
    assert torch.equal(result.double().nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "ieee"), ("bfloat16", "ieee"), ("float32", "tf32")])
def test_picked_in_every_dtype(dtype: str, precision: str, device: str) -> None:
    """Tensor cores multiply all dtypes but exact float32. On a GPU, blocks can be copied for only some of them."""
    geometry = PROBLEMS["plain"]
    x, weight, y = (t.to(getattr(torch, dtype)) for t in factors(geometry, device))
    with convolution_precision(precision):
        plans = {op: planned(guarded_call(op, geometry, x, weight, y, finds_bias=op == "wgrad")) for op in OPERATORS}
        results = {operator: start.run(plan)[0] for operator, plan in plans.items()}
    if not torch.cuda.is_available():
        assert [op for op, plan in plans.items() if not plan.tile.uses_tma] == (["wgrad"] if dtype == "float32" else [])
    for operator, wanted in expected(geometry, x, weight, y).items():
        assert torch.equal(results[operator].double(), wanted)


@pytest.mark.parametrize(
    ("reason", "precision"),
    [("exact", "ieee"), ("expanded", "tf32"), ("unaligned", "tf32"), ("varies", "tf32")],
)
def test_gathered_where_blocks_can_not_be_copied(reason: str, precision: str, device: str) -> None:
    geometry = PROBLEMS["valid"]
    x, weight, _ = (t.float() for t in factors(geometry, device))
    if reason == "expanded":
        x = x[:1].expand_as(x)
    if reason == "unaligned":
        geometry = ConvGeometry(B=2, C=6, H=5, W=7, F=8, P=4, Q=5, R=2, S=3)
        x, weight, _ = (t.float() for t in factors(geometry, device))
    if reason == "varies":
        geometry = ConvGeometry(B=2, C=24, H=5, W=7, F=8, P=4, Q=5, R=2, S=3, varies="b")
        weight = weight.expand(geometry.weight_shape).contiguous()
    with convolution_precision(precision):
        plan = planned(Call.of_geometry("fprop", geometry, (x, weight)))
        (result,) = start.run(plan)
    assert not plan.tile.uses_tma
    shared = weight[0] if reason == "varies" else weight
    assert torch.equal(result.double(), conv2d(x.double(), shared.double()))


def test_a_line_of_pixels_is_one_image(device: str) -> None:
    """A 1x1 convolution is flattened to one image if the memory of both sides allows it, and is right either way."""
    geometry = PROBLEMS["line"]
    x, weight, y = factors(geometry, device)
    whole, apart = (
        planned(Call.of_geometry("fprop", geometry, (x, weight), channels_last=channels_last))
        for channels_last in (True, False)
    )
    assert [plan.launches[0].arguments["B"] for plan in (whole, apart)] == [1, 3]
    wanted = expected(geometry, x, weight, y)["fprop"]
    assert all(torch.equal(start.run(plan)[0].double(), wanted) for plan in (whole, apart))
