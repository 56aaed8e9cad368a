"""How many calls and backward passes are kept, which ones leave, what a failure does, and what threads may do at once.

Most tests leave out the kernels, so results are not computed.
"""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.switches import many_switches
from tests.support.ways import noted_long_ways
from tritonconv.fast_path import backward, forward
from tritonconv.fast_path.backward import KeptBackward
from tritonconv.fast_path.function import KeptForward
from tritonconv.launch import bounded_cache, failures, launchers, plan_cache, start
from tritonconv.launch.failures import TileTooLarge

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no kernel: a launch does nothing."""
    monkeypatch.setattr(start, "start_each", lambda launches: [None] * len(launches))
    monkeypatch.setattr(launchers, "start_interpreted", lambda *_: None)
    monkeypatch.setattr(plan_cache.runtime, "interpreted", lambda: True)


def operands(width: int, device: str) -> tuple[Tensor, Tensor]:
    """Return an image of one row of this width and a weight of one pixel, which require gradients."""
    x, weight = torch.ones(1, 4, 1, width, device=device), torch.ones(4, 4, 1, 1, device=device)
    return x.requires_grad_(), weight.requires_grad_()


def call(width: int, device: str) -> Tensor:
    return tritonconv.conv2d(*operands(width, device), implementation="triton")


def step(width: int, device: str) -> tuple[Tensor, ...]:
    """Make a call and its backward pass, and return the result and the gradients."""
    x, weight = operands(width, device)
    y = tritonconv.conv2d(x, weight, implementation="triton")
    return y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))


def widths(kept: dict[Any, KeptForward] | dict[Any, KeptBackward]) -> list[int]:
    """Return the widths of the images of what is kept, the least recently used first."""
    entries = sorted(kept.values(), key=lambda each: each.used)
    plans = [each.plan if isinstance(each, KeptForward) else each.steps[0].plan for each in entries]
    return [each.request.geometry.Q for each in plans]


def kept_calls() -> list[int]:
    return widths(forward.kept_forwards.entries)


def kept_passes() -> list[int]:
    return widths(backward.kept_backwards.entries)


def kept_step(width: int, device: str) -> None:
    """Make a call twice, with its backward pass: the second time, the backward pass is kept."""
    step(width, device)
    step(width, device)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(("run", "kept"), [(call, kept_calls), (kept_step, kept_passes)], ids=["forward", "backward"])
def test_the_least_recently_used_leave(
    run: Callable[[int, str], Any], kept: Callable[[], list[int]], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found counts as used."""
    monkeypatch.setattr(bounded_cache, "CAPACITY", 3)
    for width in (1, 2, 3):
        run(width, device)
    assert kept() == [1, 2, 3]
    with noted_long_ways() as noted:
        (call if run is call else step)(1, device)
    assert not noted
    assert kept() == [2, 3, 1]
    run(4, device)
    assert kept() == [3, 1, 4]
    run(3, device)
    assert kept() == [1, 4, 3]
    run(5, device)
    assert kept() == [4, 3, 5]
    bounded_cache.clear()
    assert kept() == []


@pytest.mark.usefixtures("no_kernels")
def test_layers_that_are_used_again_and_again_stay(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four layers are trained in each round, and two others only once. Each cache has room for twenty entries.

    A layer has three plans in the plan cache, which leave: the fast path does not look there, so they are not used.
    """
    monkeypatch.setattr(bounded_cache, "CAPACITY", 20)
    for round_number in range(12):
        with noted_long_ways() as noted:
            for width in (1, 2, 3, 4):
                step(width, device)
        if round_number > 1:
            assert not noted
        for once in (0, 1):
            kept_step(100 + 2 * round_number + once, device)
        for cache in (forward.kept_forwards, backward.kept_backwards, plan_cache.plans):
            assert len(cache.entries) <= 20
    assert {1, 2, 3, 4} < {*kept_calls()}
    assert {1, 2, 3, 4} < {*kept_passes()}


@pytest.mark.usefixtures("no_kernels")
def test_a_call_whose_plan_has_left_the_plan_cache_is_repeated(device: str) -> None:
    kept_step(1, device)
    plan_cache.plans.entries.clear()
    with noted_long_ways() as noted:
        step(1, device)
    assert not noted
    assert not plan_cache.plans.entries


@pytest.mark.usefixtures("no_kernels")
def test_a_call_that_has_left_is_kept_anew_with_its_backward_pass(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward pass of the first graph is found again, although the call itself has left the cache."""
    kept_step(1, device)
    x, weight = operands(1, device)
    y = tritonconv.conv2d(x, weight, implementation="triton")
    with monkeypatch.context() as patch:
        patch.setattr(bounded_cache, "CAPACITY", 1)
        call(2, device)
    assert kept_calls() == [2]
    with noted_long_ways() as noted:
        torch.autograd.grad(y, (x, weight), torch.ones_like(y))
        assert not noted
        step(1, device)
        step(1, device)
        assert noted == ["forward", "backward"]
        step(1, device)
        assert noted == ["forward", "backward"]
    assert kept_calls() == [2, 1]
    assert kept_passes() == [1, 1]


def test_a_failure_empties_all_caches(device: str) -> None:
    """A graph whose forward pass ran before the failure plans its backward pass anew, without the tile that failed."""
    kept_step(5, device)
    caches = (forward.kept_forwards, backward.kept_backwards, plan_cache.plans)
    assert [len(cache.entries) for cache in caches] == [1, 1, 3]
    x, weight = operands(5, device)
    y = tritonconv.conv2d(x, weight, implementation="triton")
    (kept,) = backward.kept_backwards.entries.values()
    stale = {each.plan.request.operator: each.plan for each in kept.steps}
    failed = replace(stale["dgrad"].tile, SPLIT_K=1)
    failures.add(TileTooLarge("dgrad", stale["dgrad"].request.gpu, failed), "too large")
    assert [len(cache.entries) for cache in caches] == [0, 0, 0]
    with noted_long_ways() as noted:
        found = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert noted == ["backward"]
    assert [torch.equal(each, torch.full_like(each, n)) for each, n in zip(found, (4, 5), strict=True)] == [True] * 2
    (kept,) = backward.kept_backwards.entries.values()
    tiles = {each.plan.request.operator: each.plan.tile for each in kept.steps}
    assert replace(tiles["dgrad"], SPLIT_K=1) != failed
    assert tiles["wgrad"] == stale["wgrad"].tile


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("run", [call, step], ids=["forward", "backward"])
def test_a_failure_while_a_call_is_kept(
    run: Callable[[int, str], Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread clears the caches after this one has found the plan. Nothing is kept, and later calls are."""
    kept_plan = plan_cache.find
    if run is step:
        step(1, device)

    def interrupted(*of: Any) -> Any:
        found = kept_plan(*of)
        if found is not None:
            bounded_cache.clear()
        return found

    with monkeypatch.context() as patch, noted_long_ways() as noted:
        patch.setattr(plan_cache, "find", interrupted)
        run(1, device)
    assert noted == (["forward"] if run is call else ["backward"])
    assert not forward.kept_forwards.entries
    assert not backward.kept_backwards.entries
    kept_step(1, device)
    assert kept_calls() == kept_passes() == [1]


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("module", [forward, backward], ids=["forward", "backward"])
def test_what_leaves_while_it_is_found_is_used(module: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread clears the caches right after this one has looked an entry up."""

    class Racing(dict[Any, Any]):
        def get(self, *key: Any) -> Any:
            found = super().get(*key)
            bounded_cache.clear()
            return found

    kept_step(1, device)
    cache = forward.kept_forwards if module is forward else backward.kept_backwards
    monkeypatch.setattr(cache, "entries", Racing(cache.entries))
    with noted_long_ways() as noted:
        assert [each.shape for each in step(1, device)] == [(1, 4, 1, 1), (1, 4, 1, 1), (4, 4, 1, 1)]
    assert noted == (["backward"] if module is forward else [])
    assert not cache.entries


@pytest.mark.usefixtures("no_kernels")
def test_threads_find_keep_and_clear_at_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread fails, each gets results and gradients of its own shapes, and the bound holds."""
    monkeypatch.setattr(bounded_cache, "CAPACITY", 4)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            width = rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6, 7))
            y, of_x, of_weight = step(width, device)
            assert y.shape == of_x.shape == (1, 4, 1, width)
            assert of_weight.shape == (4, 4, 1, 1)
            if rng.random() < 0.02:
                bounded_cache.clear()

    with noted_long_ways() as noted, many_switches(), ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    for cache in (forward.kept_forwards, backward.kept_backwards, plan_cache.plans):
        assert len(cache.entries) <= 4
    assert noted.count("forward") < 8 * 60, "no call took the fast path"
    assert noted.count("backward") < 8 * 60 - noted.count("forward"), "no backward pass took the fast path"
