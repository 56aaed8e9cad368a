"""TMA descriptors that the host makes give the same bits as those that programs build, and are made where they can be.

In the interpreter, kernels take the host's descriptors as on a GPU, by Triton's public interface.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.device.ways import same_bits
from tests.support.blocks import LEAST, PROBLEMS, expected, factors, guarded_call, problems_of_descriptors, tile_in
from tests.support.cases import laid_out
from tests.support.oracle import convolution_precision
from tests.support.plans import call_of, planned
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import bounded_cache, plan_cache, start
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.launch.plan import Plan
from tritonconv.tiling.block_shapes import BlockShape, candidate_shapes, whole_rows, with_shape
from tritonconv.tiling.descriptors import host_describes
from tritonconv.tiling.tile import Tile

pytestmark = [pytest.mark.gpu, pytest.mark.oldest, *[pytest.mark.first] * torch.cuda.is_available()]

EVERY = PROBLEMS | problems_of_descriptors(LEAST)


def on_gpu(device: str, by_host: bool) -> Gpu:
    """Return the GPU or interpreter of this process, with or without descriptors that the host makes."""
    return runtime.gpu_of(torch.device(device)).switched(host_descriptors=by_host)


def descriptors(plan: Plan) -> dict[str, HostDescriptor]:
    """Return the descriptors that the host makes for the plan, by the names of the arguments."""
    return plan.launches[0].descriptors


def cases() -> list[Any]:
    """Return each operator's problems with the block shapes for which the host makes descriptors.

    For fprop and dgrad, each problem has one shape. For wgrad, it has all candidate shapes, and whole rows.
    """
    there = on_gpu("cuda" if torch.cuda.is_available() else "cpu", True).architecture
    found = []
    for operator in OPERATORS:
        every = candidate_shapes(LEAST, operator)
        for index, (name, geometry) in enumerate(EVERY.items()):
            geometry = geometry.flattened() if geometry.pointwise else geometry
            some = [every[index % len(every)]] if operator != "wgrad" else every + whole_rows(LEAST, geometry)
            found += [
                pytest.param(operator, name, shape, id=f"{operator}-{name}-{'.'.join(map(str, shape))}")
                for shape in some
                if host_describes(tile_in(operator, shape), geometry, operator, there)
            ]
    return found


def both(operator: Operator, name: str, tile: Tile, device: str, operands: tuple[Tensor, Tensor, Tensor]) -> list[Any]:
    """Return the results with descriptors that programs build, and with the host's, and the plan of these."""
    geometry, (x, weight, y) = EVERY[name], operands
    sides = {"fprop": y, "dgrad": x, "wgrad": weight}
    added = None if operator == "wgrad" else (torch.arange(sides[operator].shape[1], device=device) % 7).to(x.dtype)
    call = guarded_call(operator, geometry, x, weight, y, bias=added, finds_bias=operator == "wgrad")
    return [*both_ways(call, tile, device), planned(call, tile, on_gpu(device, True))]


def both_ways(call: Call, tile: Tile, device: str) -> list[tuple[Tensor, ...]]:
    """Return the results of a call with descriptors that programs build, and with the host's."""
    own, made = (planned(call, tile, on_gpu(device, by_host)) for by_host in (False, True))
    assert not descriptors(own)
    assert descriptors(made)
    return [start.run(own), start.run(made)]


@pytest.mark.parametrize(("operator", "name", "shape"), cases())
def test_both_ways_give_the_same_bits(operator: Operator, name: str, shape: BlockShape, device: str) -> None:
    """Operands are random, so another order of sums would show. NaN lies at edges of both sides."""
    x, weight, y = (torch.randn(each.shape, device=device).to(each) for each in factors(EVERY[name], device))
    x, weight, y = (each.contiguous(memory_format=torch.channels_last) for each in (x, weight, y))
    x[-1, 3, -1, -1] = x[0, 1, 0, 0] = y[-1, 5, -1, -1] = float("nan")
    own, made, plan = both(operator, name, tile_in(operator, shape), device, (x, weight, y))
    assert same_bits(own, made)
    if operator == "wgrad":
        assert plan.launches[0].arguments["x_ptr"] is plan.launches[0].arguments["y_ptr"] is None


@pytest.mark.parametrize("name", ["plain", "folded", "stride_of_one_tap"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_both_ways_give_the_same_bits_in_single_elements(operator: Operator, name: str, device: str) -> None:
    """Results that are contiguous are stored element by element, through a pointer. They have no descriptor."""
    geometry = EVERY[name]
    x, weight, y = (torch.randn(each.shape, device=device).to(each) for each in factors(geometry, device))
    call = call_of(operator, geometry, dict(x=x, weight=weight, y=y), channels_last=False)
    own, made = both_ways(call, tile_in(operator), device)
    assert same_bits(own, made)
    planned_by_host = descriptors(planned(call, tile_in(operator), on_gpu(device, True)))
    assert "weight" in planned_by_host
    assert "result" not in planned_by_host


def sparse(dense: Tensor, how: str) -> Tensor:
    """Return the same numbers at other distances, with NaN between them. Channels are adjacent."""
    B, N, H, W = dense.shape
    if how == "permuted":
        return dense.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    more = dict(channels=(B, N + 16, H, W), crop=(B, N, H + 2, W + 3), columns=(B, N, H, 2 * W))[how]
    wider = dense.new_full(more, float("nan")).contiguous(memory_format=torch.channels_last)
    part = dict(channels=wider[:, 8:-8], crop=wider[:, :, 1:-1, 2:-1], columns=wider[..., ::2])[how]
    return part.copy_(dense)


@pytest.mark.parametrize("how", ["channels", "crop", "columns", "permuted"])
@pytest.mark.parametrize("name", ["plain", "strided_groups", "strided_rows", "pointwise_groups", "stride_of_one_tap"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_operands_need_not_be_dense(operator: Operator, name: str, how: str, device: str) -> None:
    """Descriptors have the strides of the operands. Of wgrad's features, only the channels may be wider."""
    geometry = EVERY[name]
    x, weight, y = factors(geometry, device)
    wanted = expected(geometry, x, weight, y)[operator]
    x, y = sparse(x, how), sparse(y, "channels" if operator == "wgrad" else how)
    tile = tile_in(operator, (LEAST, 1, 1))
    if not host_describes(tile, geometry, operator, on_gpu(device, True).architecture):
        assert (operator, name) == ("fprop", "strided_groups") or name == "stride_of_one_tap"
        return
    own, made = both_ways(call_of(operator, geometry, dict(x=x, weight=weight, y=y)), tile, device)
    assert torch.equal(made[0].double(), wanted)
    assert same_bits(own, made)


def test_a_wide_stride_is_described_by_programs() -> None:
    """The channels that wgrad's stride skips count as channels, and a copy counts these in 32 bits."""
    geometry = ConvGeometry(*(LEAST, 16, 2, 2, 16, 2, 1, 1, 2), stride_w=2)
    about = dict(device="meta", dtype=torch.float16)
    y = torch.empty(geometry.feature_shape, **about).contiguous(memory_format=torch.channels_last)
    for far, described in ((2**31 - 32, True), (2**31, False)):
        x = torch.empty(far + 4096, **about).as_strided(geometry.image_shape, (32, 1, 16, far))
        call = Call.of_geometry("wgrad", geometry, (x, y))
        plan = planned(call, tile_in("wgrad", (LEAST, 1, 1)), on_gpu("cpu", True))
        assert bool(descriptors(plan)) == described


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_kept_plan_gives_the_same_bits(operator: Operator, device: str) -> None:
    """On a GPU, kept descriptors are passed to the kernel's launcher: of the same addresses, and of others."""
    geometry = PROBLEMS["whole_rows"]
    x, weight, y = (torch.randn(each.shape, device=device).to(each) for each in factors(geometry, device))
    shape = whole_rows(LEAST, geometry)[0] if operator == "wgrad" else None
    tile, generation = tile_in(operator, shape), bounded_cache.generation()
    calls = [
        call_of(operator, geometry, {k: laid_out(v.clone() * by, "channels_last") for k, v in sides.items()})
        for sides in [dict(x=x, weight=weight, y=y)]
        for by in (1, 2)
    ]
    plan = planned(calls[0], tile, on_gpu(device, True))
    plan_cache.keep(calls[0], plan, start.start_kernels(plan), generation)
    kept = plan_cache.find(calls[0])
    assert kept is not None
    assert (kept.triton is not None) == torch.cuda.is_available()
    assert all(bool(each.descriptors) == torch.cuda.is_available() for each in kept.launches[:1])
    for call in (calls[0], calls[0], calls[1], calls[0]):
        tensors = start.run_again(kept, *call.factors, None)
        assert tensors is not None
        assert same_bits(kept.results_in(tensors), start.run(planned(call, tile, on_gpu(device, False))))


@pytest.mark.parametrize("operator", OPERATORS)
def test_integers_are_exact(operator: Operator, device: str) -> None:
    x, weight, y = factors(PROBLEMS["whole_rows"], device)
    shape = whole_rows(LEAST, PROBLEMS["whole_rows"])[0] if operator == "wgrad" else None
    _, (result, *_), _ = both(operator, "whole_rows", tile_in(operator, shape), device, (x, weight, y))
    wanted = expected(PROBLEMS["whole_rows"], x, weight, y)[operator]
    if operator != "wgrad":
        wanted = wanted + (torch.arange(wanted.shape[1], device=device) % 7).double()[:, None, None]
    assert torch.equal(result.double(), wanted)


@pytest.mark.parametrize("name", ["plain", "folded"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_both_ways_give_the_same_bits_in_halves(operator: Operator, name: str, device: str) -> None:
    tile = with_shape(Tile(LEAST, 2 * LEAST, LEAST, LEAST // 16, num_stages=2), candidate_shapes(LEAST, operator)[0])
    own, made, plan = both(operator, name, tile, device, factors(PROBLEMS[name], device))
    assert same_bits(own, made)
    assert descriptors(plan)["result"].block_shape[-1] == LEAST


@pytest.mark.parametrize("operator", OPERATORS)
def test_both_ways_give_the_same_bits_in_tf32(operator: Operator, device: str) -> None:
    x, weight, y = (each.float() for each in factors(PROBLEMS["whole_images"], device))
    shape = whole_rows(LEAST // 2, PROBLEMS["whole_images"])[0] if operator == "wgrad" else None
    tile = replace(tile_in(operator, shape), BLOCK_K=LEAST // 2)
    with convolution_precision("tf32"):
        own, made, _ = both(operator, "whole_images", tile, device, (x, weight, y))
    assert same_bits(own, made)


def test_programs_build_descriptors_that_they_can_not_share(device: str) -> None:
    """Each case differs in one thing from a launch whose descriptors the host makes."""
    there = on_gpu(device, True).architecture
    plain = ConvGeometry(B=4, C=LEAST, H=8, W=8, F=LEAST, P=8, Q=8, R=3, S=3, pad_h=1, pad_w=1)
    strided = replace(plain, P=4, Q=4, stride_h=2, stride_w=2)
    one_tap = replace(strided, R=1, S=1, pad_h=0, pad_w=0)
    tiles = {operator: tile_in(operator, (LEAST, 1, 1)) for operator in OPERATORS}

    def made(operator: Operator, geometry: ConvGeometry, **other: Any) -> bool:
        return host_describes(replace(tiles[operator], **other), geometry, operator, there)

    assert all(made(operator, geometry) for operator in OPERATORS for geometry in (plain, strided, one_tap))
    for operator in OPERATORS:
        assert not host_describes(tiles[operator], plain, operator, on_gpu(device, False).architecture)
        assert not made(operator, plain, BLOCK_B=0, BLOCK_H=0, BLOCK_W=0)
        assert not any(made(operator, replace(plain, **{empty: 0})) for empty in ("B", "C", "F"))
    # Each sub-image has a descriptor: the stride does not divide the image, or a step takes channels of two sub-images.
    assert not any(made("fprop", replace(strided, **{size: 7})) for size in ("H", "W"))
    assert not made("fprop", replace(strided, C=LEAST + 8))
    assert not made("fprop", replace(strided, G=2))
    # The only sub-image begins with the second row or column.
    assert not any(made("fprop", replace(one_tap, **{pad: 1})) for pad in ("pad_h", "pad_w"))
    assert made("fprop", replace(one_tap, H=7, W=7))
    # A block of positions overhangs, or the stride does not divide the image.
    rows = dict(BLOCK_B=1, BLOCK_H=2, BLOCK_W=8)
    assert made("wgrad", plain, **rows)
    assert not any(made("wgrad", replace(plain, **{size: 7}), **rows) for size in ("P", "Q"))
    assert not any(made("wgrad", replace(strided, **{size: 7})) for size in ("H", "W"))
    assert made("wgrad", replace(strided, G=2, C=LEAST + 8))
    assert made("dgrad", replace(strided, H=7, W=7, G=2))


@pytest.mark.parametrize(("operator", "empty"), [("fprop", "F"), ("dgrad", "C")])
def test_nothing_is_described_where_nothing_is_computed(operator: Operator, empty: str, device: str) -> None:
    geometry = replace(PROBLEMS["whole_rows"], **{empty: 0})
    call = guarded_call(operator, geometry, *factors(geometry, device))
    plan = planned(call, tile_in(operator), on_gpu(device, True))
    assert not host_describes(plan.tile, geometry, operator, on_gpu(device, True).architecture)
    assert not any(each.descriptors for each in plan.launches)
    assert start.run(plan)[0].numel() == 0
