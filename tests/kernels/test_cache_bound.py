"""How many plans are kept, which one leaves, and what threads may do at the same time. Nothing is computed here."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.kept import FakeCompiled, find, keep, row_call
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tests.support.switches import many_switches
from tritonconv.launch import bounded_cache, launchers, plan_cache, start
from tritonconv.launch.kept_plan import KeptLaunch
from tritonconv.launch.plan import Plan
from tritonconv.operators.compute import compute

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def kept_widths() -> list[int]:
    """Return the widths of the images whose plans are kept, the least recently used first."""
    kept = sorted(plan_cache.plans.entries.values(), key=lambda each: each.used)
    return [each.request.geometry.Q for each in kept]


def test_the_least_recently_used_plan_leaves(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is found, or kept again, counts as used."""
    monkeypatch.setattr(bounded_cache, "CAPACITY", 3)
    for width in (1, 2, 3):
        keep(row_call(width, device))
    assert kept_widths() == [1, 2, 3]
    assert find(row_call(1, device)) is not None
    assert kept_widths() == [2, 3, 1]
    keep(row_call(4, device))
    assert kept_widths() == [3, 1, 4]
    keep(row_call(3, device))
    assert kept_widths() == [1, 4, 3]
    keep(row_call(5, device))
    assert kept_widths() == [4, 3, 5]
    assert find(row_call(1, device)) is None
    bounded_cache.clear()
    assert kept_widths() == []


def test_layers_that_are_used_again_and_again_stay(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers run in each round, and three others only once. The cache has room for ten plans.

    Only the first round plans the six.
    """
    monkeypatch.setattr(bounded_cache, "CAPACITY", 10)
    missed: list[int] = []
    for round_number in range(8):
        once = [100 + 3 * round_number + i for i in range(3)]
        for width in (1, 2, once[0], 3, 4, once[1], 5, 6, once[2]):
            if find(row_call(width, device)) is None:
                missed.append(width)
                keep(row_call(width, device))
            assert len(plan_cache.plans.entries) <= 10
    assert [width for width in missed if width < 100] == [1, 2, 3, 4, 5, 6]
    assert len(missed) == 6 + 8 * 3


def test_threads_find_keep_and_clear_at_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread fails, each finds the plan of its own call, and the bound holds."""
    monkeypatch.setattr(bounded_cache, "CAPACITY", 4)
    calls = [row_call(width, device) for width in range(1, 10)]

    def work(seed: int) -> int:
        rng, found = random.Random(seed), 0
        for _ in range(150):
            each = rng.choice(calls)
            kept = find(each)
            if kept is None:
                keep(each)
            else:
                found += 1
                assert kept.results[0].shape == each.result_shape
                assert kept.plan.request.geometry.Q == each.geometry.Q
            if rng.random() < 0.02:
                bounded_cache.clear()
        return found

    with many_switches(), ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) > 0
    assert len(kept_widths()) <= 4


def test_a_plan_that_leaves_while_it_is_found_is_found(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread removes the entry right after this one has looked it up."""

    class Racing(dict[Any, Any]):
        def get(self, *key: Any) -> Any:
            found = super().get(*key)
            bounded_cache.clear()
            return found

    keep(row_call(1, device))
    monkeypatch.setattr(plan_cache.plans, "entries", Racing(plan_cache.plans.entries))
    assert find(row_call(1, device)) is not None
    assert find(row_call(1, device)) is None


def test_a_failure_while_a_plan_is_kept(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread clears the cache while this one is about to add a plan. That plan is not kept."""
    kept_launch = launchers.kept_launch

    def interrupted(*of: Any) -> KeptLaunch:
        bounded_cache.clear()
        return kept_launch(*of)

    with monkeypatch.context() as patch:
        patch.setattr(launchers, "kept_launch", interrupted)
        keep(row_call(1, device))
    assert not plan_cache.plans.entries
    keep(row_call(1, device))
    assert kept_widths() == [1]


@pytest.mark.parametrize(("before", "after"), [("ieee", "tf32"), ("tf32", "ieee")])
def test_a_switch_that_is_turned_while_the_plan_runs(
    before: str, after: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread sets TF32 after a call was planned. The plan is kept for neither position of the switch."""
    start_kernels = start.start_kernels

    def interrupted(plan: Plan) -> list[Any]:
        compiled = start_kernels(plan)
        torch.backends.cudnn.conv.fp32_precision = after
        return compiled

    with convolution_precision(before):
        with monkeypatch.context() as patch:
            patch.setattr(start, "start_kernels", interrupted)
            compute(row_call(1, device))
        assert not plan_cache.plans.entries
        compute(row_call(1, device))
        assert kept_widths() == [1]


def test_a_switch_that_is_turned_while_the_call_is_planned(device: str) -> None:
    """The tile is chosen for one position of the switch, and the products are those of the other one."""
    with convolution_precision("ieee"):
        each = row_call(1, device)
        plan = planned(each)
        (launch,), request = plan.launches, plan.request
        inexact = request._replace(operands=replace(request.operands, exact=False))
        in_tf32 = launch._replace(arguments=launch.arguments | {"PRECISION": "tf32"})
        for torn in (plan._replace(request=inexact), plan._replace(launches=[in_tf32])):
            plan_cache.keep(each, torn, [FakeCompiled()], bounded_cache.generation())
            assert not plan_cache.plans.entries
        plan_cache.keep(each, plan, [FakeCompiled()], bounded_cache.generation())
        assert kept_widths() == [1]


def test_kernels_that_are_not_compiled_yet(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is kept on a GPU only if all its kernels are compiled. Others could fail later, without a second way."""
    each = row_call(1, device)
    plan = planned(each)
    monkeypatch.setattr(plan_cache.runtime, "interpreted", lambda: False)
    for compiled, count in ((object(), 0), (FakeCompiled(), 1)):
        plan_cache.keep(each, plan, [compiled], bounded_cache.generation())
        assert len(plan_cache.plans.entries) == count
