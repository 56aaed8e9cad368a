"""A call that was planned before is not planned or compiled again, and its result is right for other numbers."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case, laid_out
from tests.support.oracle import convolution_precision
from tests.support.selection import in_dtypes
from tests.support.steps import steps
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import failures, kept_plan, plan_cache, planners, split_k, start, tile_choice
from tritonconv.launch.failures import TileTooLarge
from tritonconv.launch.plan import Plan
from tritonconv.operators.compute import compute

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that were planned so far, in order."""
    made: list[str] = []
    plan = planners.plan
    monkeypatch.setattr(planners, "plan", lambda call, *more: made.append(call.operator) or plan(call, *more))
    return made


# Both families of kernels; copies of the weight, of images in NCHW and of a bias; weights that vary over samples and
# positions.
LAST = dict(x="channels_last", weight="channels_last")
CASES = [
    Case("blocks", 2, (16, 16), padding=1, **LAST),  # type: ignore[arg-type]
    Case("strided", 2, (16, 16), (6, 6), stride=2, padding=1, **LAST),  # type: ignore[arg-type]
    Case("folded", 2, (16, 16), (8, 8), (2, 2), stride=2, x="some_channels"),  # copied in TF32
    Case("nchw", 2, (16, 8)),
    Case("few_channels", 2, (3, 5), bias_layout="sliced"),
    Case("pointwise", 2, (16, 16), kernel=(1, 1), **LAST),  # type: ignore[arg-type]
    Case("grouped", 2, (32, 32), groups=2, **LAST),  # type: ignore[arg-type]
    Case("transposed", 2, (16, 16), (3, 3), (4, 4), stride=2, padding=1, transposed=True, x="channels_last"),
    Case("local", 2, (4, 4), (4, 4), padding=1, varies="p q", bias_varies="p q"),
    Case("per_sample", 2, (4, 4), (4, 4), padding=1, varies="b"),
]


@pytest.mark.parametrize(
    ("case", "dtype"), in_dtypes(CASES, ("tf32", "bfloat16"), ("blocks", "strided", "nchw", "grouped", "local"))
)
@pytest.mark.first
def test_a_step_is_planned_once(case: Case, dtype: str, device: str, planned: list[str]) -> None:
    """Three steps with other numbers give exact results, in memory that starts as NaN, between guard bands."""
    with convolution_precision("tf32" if dtype == "tf32" else "ieee"):
        for seed in range(3):
            for part in steps(case, dtype, device, case.gradient, integer=True, seed=seed):
                part.check_exact(f"{case} {seed}")
    assert sorted(planned) == ["dgrad", "fprop", "wgrad"]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any) -> Tensor:
    return tritonconv.conv2d(x, weight, bias, implementation="triton", **more)


def drawn(*shape: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random integers from -2 to 2."""
    return torch.randint(-2, 3, shape, device=device).to(dtype)


def right(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any) -> bool:
    """Whether `y` is exactly what torch's conv2d computes in float64."""
    wide = (None if t is None else t.double() for t in (x, weight, bias))
    return torch.equal(y.double(), torch.nn.functional.conv2d(*wide, **more))


def test_whatever_else_differs_is_planned_anew(device: str, planned: list[str]) -> None:
    x, weight, bias = drawn(2, 4, 5, 5, device=device), drawn(6, 4, 3, 3, device=device), drawn(6, device=device)
    beside = torch.cat([drawn(1, device=device), x.flatten()])[1:].view(x.shape)  # starts four bytes further on
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, weight), {}),
        ((x, weight, bias), {}),
        ((x, weight, bias), {"padding": 1}),
        ((x, weight, bias), {"stride": 2}),
        ((x, weight), {"dilation": 2}),
        ((x, weight[:, :2]), {"groups": 2}),
        ((x[:1], weight), {}),
        ((laid_out(x, "channels_last"), weight), {}),
        ((laid_out(x, "sliced"), weight), {}),
        ((x, laid_out(weight, "channels_last")), {}),
        ((x, weight, torch.stack([bias, bias], 1)[:, 0]), {}),
        ((beside, weight), {}),
        ((x.half(), weight.half()), {}),
    ]
    for again in (1, 2):
        for operands, more in calls:
            assert right(conv2d(*operands, **more), *operands, **more)
        assert len(planned) == len(calls), again


def test_a_wish_and_a_memory_format_make_plans_of_their_own(device: str, planned: list[str]) -> None:
    """Each implementation that is asked for, and each memory format of the result, has a plan for the same tensors."""
    x, weight = drawn(2, 4, 5, 5, device=device), drawn(6, 4, 3, 3, device=device)
    geometry = ConvGeometry(B=2, C=4, H=5, W=5, F=6, P=3, Q=3, R=3, S=3)
    for _ in range(2):
        for channels_last in (False, True):
            for wish in ("auto", "triton"):
                how = dict(channels_last=channels_last, implementation=wish)
                (y,) = compute(Call.of_geometry("fprop", geometry, (x, weight), **how))
                assert right(y, x, weight)
                assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert len(planned) == 4


def test_switches_of_torch_are_no_news_to_other_dtypes(device: str, planned: list[str]) -> None:
    """TF32 makes another plan for float32, but not for float16."""
    for dtype, plans in ((torch.float32, 2), (torch.float16, 1)):
        planned.clear()
        x, weight = drawn(1, 4, 4, 4, device=device, dtype=dtype), drawn(4, 4, 3, 3, device=device, dtype=dtype)
        for precision in ("ieee", "tf32", "ieee", "tf32"):
            with convolution_precision(precision):
                assert right(conv2d(x, weight), x, weight)
        assert len(planned) == plans


def test_a_plan_that_was_chosen_before_a_failure_is_not_kept(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread finds that the tile is too large while this thread computes with it."""
    start_kernels = start.start_kernels

    def interrupted(plan: Plan) -> list[Any]:
        compiled = start_kernels(plan)
        failures.add(TileTooLarge("fprop", plan.request.gpu, replace(plan.tile, SPLIT_K=1)), "too large")
        return compiled

    x, weight = drawn(2, 4, 5, 5, device=device), drawn(6, 4, 3, 3, device=device)
    with monkeypatch.context() as patch:
        patch.setattr(start, "start_kernels", interrupted)
        assert right(conv2d(x, weight), x, weight)
    assert not plan_cache.plans.entries
    assert right(conv2d(x, weight), x, weight)
    assert len(plan_cache.plans.entries) == 1


def test_a_tensor_that_is_two_operands_is_not_taken_for_one_again(device: str) -> None:
    """No plan is kept: from the address alone, the two operands of a kernel can not be told apart."""
    x, weight = drawn(4, 4, 3, 3, device=device), drawn(4, 4, 3, 3, device=device)
    assert right(conv2d(x, x), x, x)
    assert not plan_cache.plans.entries
    assert right(conv2d(x, weight), x, weight)
    assert right(conv2d(x, x), x, x)


def test_an_empty_batch_is_planned_each_time(device: str) -> None:
    for _ in range(2):
        assert conv2d(drawn(0, 4, 5, 5, device=device), drawn(6, 4, 3, 3, device=device)).shape == (0, 6, 3, 3)
    assert not plan_cache.plans.entries


def test_no_tensor_is_kept_alive(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan cache keeps neither operands nor copies of them, here of the image."""
    x, weight = drawn(2, 16, 5, 5, device=device), drawn(8, 16, 3, 3, device=device)
    copies: list[weakref.ref[Tensor]] = []
    adjacent = planners.adjacent_channels

    def observed(side: Tensor, channels: int) -> Tensor:
        copy = adjacent(side, channels)
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(planners, "adjacent_channels", observed)
    for _ in range(2):
        conv2d(x, weight)
    assert len(plan_cache.plans.entries) == 1
    operands = [weakref.ref(t) for t in (x, weight)]
    del x, weight
    gc.collect()
    assert [ref() for ref in operands + copies] == [None] * 4


def test_without_memory_it_is_planned_as_if_for_the_first_time(
    device: str, planned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = drawn(2, 4, 5, 5, device=device), drawn(6, 4, 3, 3, device=device)
    assert right(conv2d(x, weight), x, weight)

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        for kind in kept_plan.allocators:
            patch.setitem(kept_plan.allocators, kind, full)
        assert right(conv2d(x, weight), x, weight)
    assert planned == ["fprop", "fprop"]


def test_what_lack_of_memory_made_of_a_plan_is_not_kept(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is enough memory again, the sum is split as picked."""
    pick, partial_sums = tile_choice.pick, split_k.partial_sums
    monkeypatch.setattr(
        tile_choice, "pick", lambda *request: replace(pick(*request), SPLIT_K=4 if request[1] == "wgrad" else 1)
    )
    splits: list[int] = []
    limit = 0

    def scarce(tile: Any, *rest: Any) -> Any:
        splits.append(tile.SPLIT_K)
        if limit < tile.SPLIT_K:
            raise torch.OutOfMemoryError
        return partial_sums(tile, *rest)

    monkeypatch.setattr(split_k, "partial_sums", scarce)
    x, gradient = drawn(2, 4, 6, 6, device=device), drawn(2, 6, 4, 4, device=device)
    weight = drawn(6, 4, 3, 3, device=device).requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.conv2d(x, weight), weight, gradient)
    for room, tried in ((2, [4, 2]), (4, [4]), (2, [])):
        limit = room
        splits.clear()
        with pytest.warns(tritonconv.FallbackWarning) if tried == [4, 2] else nullcontext():
            (found,) = torch.autograd.grad(conv2d(x, weight), weight, gradient)
        assert torch.equal(found, expected)
        assert splits == tried
