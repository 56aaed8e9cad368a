"""`bench.device.exactness` and `bench.device.ways`: what both ways compute, and which mistakes are found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.device import exactness, switch_times
from bench.device.exactness import NotKept
from bench.device.exactness_units import Unit, rehearsed, units
from bench.device.ways import Way, forced, same_bits, switched, taking_turns
from tests.bench.small_units import CPU, DGRAD, FPROP, H100, HERE, OVERHANGING, WGRAD, checked, needs_interpreter, small
from tests.support.blocks import IN_INTERPRETER, LEAST, ON_GPU, tile_in
from tests.support.plans import call_of
from tests.support.processes import seen
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu
from tritonconv.launch import descriptors, failures, plan_cache, planners, start
from tritonconv.launch.failures import NoHostDescriptors
from tritonconv.launch.plan import Plan


@needs_interpreter
@pytest.mark.parametrize(
    ("name", "host"),
    [
        (FPROP, ["image", "result", "weight"]),
        (DGRAD, ["features", "result", "weight"]),
        (WGRAD, ["features", "image"]),
        ("wgrad rows, rows, bias, float16", ["features", "image"]),
        ("dgrad plain, rectangle, tf32", ["features", "result", "weight"]),
    ],
)
def test_both_ways_give_the_same_bits(name: str, host: list[str]) -> None:
    unit = small(name)
    row = checked(unit, many=2 if name == WGRAD else 0)
    assert row["status"] == "ok"
    assert row["host"] == {unit.operators[0]: host}
    assert {"integers", "random", "not finite", "after the first tensors were freed"} <= {*row["checks"]}
    assert ("many addresses" in row["checks"]) == (name == WGRAD)
    json.dumps(row)


@needs_interpreter
@pytest.mark.long
def test_layers_and_gradients_give_the_same_bits() -> None:
    row = checked(small("layer conv_transpose2d, bfloat16"))
    assert row["status"] == "ok"
    assert set(row["host"]) == set(OPERATORS)
    assert all(row["host"].values())


def too_small(describe: Callable[..., Any]) -> Callable[..., Any]:
    """Return `describe`, which describes a tensor by its axes, without the last row of the first axis with several."""

    def described(tensor: Any, axes: list[tuple[int, int, int]]) -> Any:
        at = next((i for i, (n, _, _) in enumerate(axes[:-1]) if n > 1), 0)
        shortened = [(max(1, n - (i == at)), *rest) for i, (n, *rest) in enumerate(axes)]
        return describe(tensor, shortened)

    return described


@needs_interpreter
@pytest.mark.parametrize("name", [FPROP, DGRAD, WGRAD])
def test_a_wrong_descriptor_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "describe", too_small(descriptors.describe))
    row = checked(small(name))
    assert row["status"] == "wrong"
    assert "integers, against float64" in row["reason"]
    assert "the same tensors again" in row["reason"]


@needs_interpreter
def test_wrong_kernels_are_found_also_if_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Unit.compute
    monkeypatch.setattr(Unit, "compute", lambda unit, given: tuple(each * 1.5 for each in right(unit, given)))
    row = checked(small(WGRAD))
    assert (row["status"], row["reason"]) == ("wrong", "other bits: integers, against float64")


@needs_interpreter
def test_plans_that_are_not_kept_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_cache, "keep", lambda *_: None)
    with pytest.raises(NotKept, match="plans of 1 operators should be kept"):
        checked(small(WGRAD))


@needs_interpreter
def test_plans_that_are_not_found_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every call is planned anew, as the first one."""
    monkeypatch.setattr(plan_cache, "find", lambda _: None)
    with pytest.raises(NotKept, match="plans of 1 operators should be kept"):
        checked(small(WGRAD))


@needs_interpreter
def test_other_tiles_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "forced", lambda tiles: forced({"wgrad": tile_in("wgrad", (1, 1, LEAST))}))
    with pytest.raises(NotKept, match=r"other tiles were run: 16x16x16w4s2:1\.1\.16/2"):
        checked(small(WGRAD))


@needs_interpreter
def test_descriptors_that_fail_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose host descriptors fail is computed without them. What failed in an earlier unit does not count."""
    failures.add(NoHostDescriptors("wgrad", H100), "of an earlier unit")
    start_kernels = start.start_kernels

    def fails(plan: Plan) -> Any:
        if exactness.descriptors(plan):
            failures.add(NoHostDescriptors("wgrad", plan.request.gpu), "no descriptor can be filled")
        return start_kernels(plan)

    monkeypatch.setattr(start, "start_kernels", fails)
    with pytest.raises(NotKept, match=r"avoided: no descriptor can be filled$"):
        checked(small(WGRAD))
    layer = switch_times.layers("host_descriptors", CPU)[0][0]
    with pytest.raises(RuntimeError, match=r"avoided: no descriptor can be filled$"):
        switch_times.timed("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)


@needs_interpreter
def test_where_the_host_makes_no_descriptors() -> None:
    """Both ways are the same there. That is no evidence, and it must be known before."""
    row = checked(small(OVERHANGING))
    assert row["status"] == "skipped"
    assert "makes no descriptors" in row["reason"]
    with pytest.raises(NotKept, match="only for no operator"):
        checked(replace(small(OVERHANGING), by_programs=False))
    with pytest.raises(NotKept, match="descriptors for wgrad, where none were expected"):
        checked(replace(small(WGRAD), by_programs=True))


# On a fake GPU, whose descriptors hold addresses. Two are kept. `STALE` is one that is kept for every address.
PRETENDED = """
gpu = install(Gpu())
from bench.device import exactness, exactness_units
from tritonconv import runtime
from tritonconv.launch import kept_descriptors, launchers
kept_descriptors.KEPT_DESCRIPTORS = 2
cpu = torch.device("cpu")
(unit,) = [each for each in exactness_units.units(16) if each.name == {name!r}]
def status(many):
    row = exactness.about(unit, runtime.gpu_of(cpu), {kernels})
    row = exactness.check(unit, cpu, row, many)
    return row["status"] + str(sorted(row["kept"])) + row.get("reason", "")
filled = launchers.filled_descriptors
def stale(descriptor, layout):
    fill, first = filled(descriptor, layout), []
    return kept_descriptors.lru_cache(2)(lambda address: first.append(address) or fill(first[0]))
def planted():
    launchers.filled_descriptors = stale
    return status(3)
def publicly():
    launchers.has_proven_launcher = lambda *_: False
    return status(3)
def without_bound():
    kept = kept_descriptors.lru_cache
    kept_descriptors.lru_cache = lambda _: kept(None)
    try:
        return status(3)
    finally:
        kept_descriptors.lru_cache = kept
observe(lambda: status(3), without_bound, planted, publicly, gpu=gpu)
"""


@pytest.mark.oldest
@pytest.mark.long
def test_kept_descriptors_on_a_fake_gpu(tmp_path: Path) -> None:
    """Descriptors are kept and evicted. It is found if one is used for another address, or if none is kept."""
    code = PRETENDED.format(name=WGRAD, kernels=dict.fromkeys(OPERATORS, "a"))
    right, without_bound, planted, publicly = seen(code, tmp_path)["results"]
    assert right == "ok['filled', 'found', 'reused']"
    assert without_bound.startswith("NotKept: no descriptor was used again, or none was evicted")
    assert planted.startswith("wrong")
    assert "many addresses" in planted
    assert "integers, against" not in planted  # the first call is planned, and fills its own
    assert publicly == "NotKept: wgrad is not started with descriptors that are kept"


@pytest.mark.parametrize("least", [IN_INTERPRETER, ON_GPU])
def test_units_cover_every_way_to_describe(least: int) -> None:
    every = units(least)
    assert len({unit.name for unit in every}) == len(every)
    there = H100.switched(host_descriptors=True)
    shapes: dict[str, set[tuple[int, int, int]]] = {operator: set() for operator in OPERATORS}
    dtypes, flags = set(), set()
    for unit in every:
        plans = unit.plans(there)
        made = {operator for operator, plan in plans.items() if exactness.descriptors(plan)}
        gathering = {"wgrad"} if unit.dtype == "tf32" else set()
        assert made == (set() if unit.by_programs else set(unit.operators) - gathering), unit.name
        for operator in made:
            tile, given = plans[operator].tile, plans[operator].launches[0].arguments
            shapes[operator].add((tile.BLOCK_B, tile.BLOCK_H, tile.BLOCK_W))
            dtypes.add((operator, unit.dtype))
            flags |= {(operator, name, bool(given.get(name))) for name in ("LOADS_FOLDED", "STORES_FOLDED", "HALVES")}
            flags |= {
                (operator, "groups", unit.geometry.G > 1),
                (operator, "strided", unit.geometry.stride_h > 1),
                (operator, "dilated", unit.geometry.dilation_h > 1),
                (operator, "bias", operator in unit.biased),
                (operator, "flattened", given["B"] == 1 < unit.geometry.B),
                (operator, "result", given.get("result") is not None),
                (operator, "layer", unit.layer is not None),
            }
    for operator in ("fprop", "dgrad"):
        heights = {(h, w) for _, h, w in shapes[operator]}
        assert any(h < w > 1 < h for h, w in heights)  # a rectangle
        assert {(1, 1), (2, 2), (4, 4) if least == ON_GPU else (2, 2), (1, least)} <= heights
    assert {(1, 1, least), (least, 1, 1)} <= shapes["wgrad"]
    assert any(b * h * w == least and h > 1 for b, h, w in shapes["wgrad"])
    assert dtypes == {(o, d) for o in OPERATORS for d in ("bfloat16", "float16", "tf32")} - {("wgrad", "tf32")}
    both = {
        "fprop": ("LOADS_FOLDED", "HALVES", "groups", "strided", "dilated", "bias", "flattened", "layer"),
        "dgrad": ("STORES_FOLDED", "HALVES", "groups", "strided", "dilated", "bias", "flattened", "result", "layer"),
        "wgrad": ("groups", "strided", "dilated", "bias", "flattened", "layer"),
    }
    missing = {(o, name, on) for o, names in both.items() for name in names for on in (False, True)} - flags
    assert missing == set()


def test_what_is_rehearsed() -> None:
    few = rehearsed(units(IN_INTERPRETER))
    assert {operator for unit in few for operator in unit.operators} == set(OPERATORS)
    assert {unit.dtype for unit in few} == {"bfloat16", "float16", "tf32", "float32"}
    assert any(unit.layer for unit in few)
    assert {unit.by_programs for unit in few} == {False, True}


def test_the_same_bits() -> None:
    one = torch.tensor([1.0, float("nan"), float("inf")])
    assert same_bits([one], [one.clone()])
    for i, other in enumerate([2.0, 0.0, -float("inf")]):
        changed = one.clone()
        changed[i] = other
        assert not same_bits([one, one], [one, changed])
    assert not same_bits([one], [one.double()])


def wgrad_call() -> Call:
    """Return a call of wgrad that TMA can copy blocks for."""
    geometry = small(WGRAD).geometry
    given = small(WGRAD).draw("integers", 0, HERE)
    return call_of("wgrad", geometry, {name: given[name] for name in ("x", "weight", "y")}, implementation="triton")


def test_a_switch_counts_within_its_block_only() -> None:
    before = runtime.gpu_of
    plan_cache.plans.entries["of the time before"] = None  # type: ignore[assignment]

    def fails() -> None:
        assert runtime.gpu_of(HERE).architecture.host_descriptors
        assert not plan_cache.plans.entries
        plan_cache.plans.entries["of the block"] = None  # type: ignore[assignment]
        raise ValueError("an error")

    with pytest.raises(ValueError, match="an error"), switched(host_descriptors=True):
        fails()
    assert runtime.gpu_of is before
    assert not plan_cache.plans.entries


def test_tiles_are_forced_within_a_block_only() -> None:
    before, wanted = planners.tile_for, tile_in("wgrad", (LEAST, 1, 1))
    call = wgrad_call()
    with forced({"wgrad": wanted}):
        assert planners.plan(call, H100).tile == wanted
    with forced({"fprop": wanted}):
        assert planners.plan(call, H100).tile != wanted
    assert planners.tile_for is before


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call that was planned so far, whether the host may make descriptors."""
    made: list[bool] = []
    plan = planners.plan

    def noted(call: Call, gpu: Gpu, *more: Any) -> Any:
        made.append(gpu.architecture.host_descriptors)
        return plan(call, gpu, *more)

    monkeypatch.setattr(planners, "plan", noted)
    return made


@needs_interpreter
def test_two_ways_take_turns(planned: list[bool]) -> None:
    """Each is planned once, and afterwards none of the plans is kept for others."""
    before, entries = runtime.gpu_of, plan_cache.plans.entries
    with taking_turns(), forced({"wgrad": tile_in("wgrad", (LEAST, 1, 1))}):
        ways = {on: Way(HERE, host_descriptors=on) for on in (False, True)}
        calls = {on: way.computation(wgrad_call()) for on, way in ways.items()}
        found = [calls[on]() for on in (False, True, False, True)]
    assert planned == [False, True]
    assert all(same_bits(found[0], each) for each in found[1:])
    assert (runtime.gpu_of, plan_cache.plans.entries) == (before, entries)
    assert not entries
