"""The part `switches` of `python -m bench device`: what it compares, what it finds wrong, and what it records."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device import correctness, evidence, exactness, switches
from bench.device.evidence import DEPENDENT
from bench.device.exactness import NotKept, Unit, units
from bench.device.schedule import Clock, Record
from bench.device.switches import GRAPHS, outcome, outcomes_of
from bench.device.ways import Way, forced, same_bits, switched, taking_turns
from bench.layers import select
from bench.lowering import offline
from tests.support.blocks import IN_INTERPRETER, LEAST, ON_GPU, tile_in
from tests.support.plans import call_of
from tests.support.processes import seen
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu
from tritonconv.launch import descriptors, failures, kept_descriptors, plan_cache, planners, start
from tritonconv.launch.failures import NoHostDescriptors
from tritonconv.launch.plan import Plan

CPU = torch.device("cpu")
HERE = torch.device("cuda") if torch.cuda.is_available() else CPU
H100 = Gpu.of("sm_90", 132)


def small(name: str) -> Unit:
    """Return the unit of this name for the interpreter."""
    (found,) = [each for each in units(IN_INTERPRETER) if each.name == name]
    return found


# One unit of each operator that takes the interpreter little time, and a layer.
FPROP, DGRAD, WGRAD = (
    "fprop pointwise_groups, line, bfloat16",
    "dgrad pointwise_groups, line, bfloat16",
    "wgrad padded_by_strides, images, bfloat16",
)
OVERHANGING = "wgrad overhanging, line, bias, bfloat16"


def checked(unit: Unit, many: int = 0) -> results.Row:
    """Return the row of a unit."""
    return exactness.check(unit, CPU, exactness.about(unit, runtime.gpu_of(CPU), dict.fromkeys(OPERATORS, "a")), many)


needs_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")


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
    layer = switches.layers("host_descriptors", CPU)[0][0]
    with pytest.raises(RuntimeError, match=r"avoided: no descriptor can be filled$"):
        switches.timed("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)


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
from bench.device import exactness
from tritonconv import runtime
from tritonconv.launch import kept_descriptors, launchers
kept_descriptors.KEPT_DESCRIPTORS = 2
cpu = torch.device("cpu")
(unit,) = [each for each in exactness.units(16) if each.name == {name!r}]
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
    few = exactness.rehearsed(units(IN_INTERPRETER))
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


@needs_interpreter
def test_a_layer_is_timed_both_ways() -> None:
    layer = switches.layers("host_descriptors", CPU)[0][0]
    rows = switches.timed("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)
    assert [(row["on"], row["status"], row["how"]) for row in rows] == [(False, "ok", "wall"), (True, "ok", "wall")]
    assert all(row["wall"]["runs"] >= 5 for row in rows)
    (row,) = switches.timed("host_descriptors", H100.switched(tma=False), layer, "fprop", CPU)
    assert row["status"] == "skipped"


@needs_interpreter
def test_a_layer_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wrong if the two ways differ in a bit, and also if both are wrong."""
    layer = switches.layers("host_descriptors", CPU)[0][0]
    given = ("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)
    monkeypatch.setattr(switches, "same_bits", lambda *_: False)
    off, on = switches.timed(*given)
    assert (off["status"], on["status"], on["reason"]) == ("ok", "wrong", "other bits than with the switch off")
    assert "wall" not in on
    computation = Way.computation
    monkeypatch.setattr(Way, "computation", lambda *call: lambda: (computation(*call)()[0] * 2,))
    rows = switches.timed(*given)
    assert [row["status"] for row in rows] == ["wrong", "wrong"]
    assert "is off by" in rows[0]["reason"]


@pytest.mark.parametrize("switch", evidence.SWITCHES)
def test_layers_that_are_timed_on_a_gpu(switch: str) -> None:
    """The switch makes a difference for most of them, and no operand takes more than a gigabyte."""
    timed = switches.layers(switch, torch.device("cuda"))
    assert len(timed) == {"host_descriptors": 24, "dependent_launch": 3}[switch]
    assert all(layer.geometry.minimal_bytes(2) < 1e9 for layer, _ in timed)
    if switches.why_not(switch, H100.architecture) is None:
        pairs = [switches.both_plans(switch, H100, *each) for each in timed]
        assert sum(switches.differ(*pair) for pair in pairs) > len(pairs) // 2


def test_switches_that_an_architecture_can_not_have() -> None:
    assert switches.why_not("host_descriptors", H100.architecture) is None
    assert switches.why_not("host_descriptors", Gpu.of("sm_80", 108).architecture) == "sm_80 has no TMA"
    assert switches.why_not("nonsense", H100.architecture) == "architectures have no nonsense"
    assert switches.why_not(
        "dependent_launch", runtime.gpu_of(CPU).architecture if HERE == CPU else Gpu.of("sm_80", 1).architecture
    )


PASSED = {"failures": [], "finished": True, "outcomes": {"passed": 3}, "skipped": {}}


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        (PASSED, "ok", None),
        (PASSED | {"failures": [{"test": "a", "message": "b"}], "finished": False}, "failed", "these tests failed: a"),
        (PASSED | {"finished": False}, "skipped", "the time of the tests was up"),
        (PASSED | {"outcomes": {"skipped": 1}, "skipped": {"why": 1}}, "skipped", "no test ran: why"),
        (PASSED | {"outcomes": {}}, "skipped", "no test ran: there is none"),
    ],
)
def test_the_status_of_tests(row: dict[str, Any], status: str, reason: str | None) -> None:
    assert outcome(row).get("reason") == reason
    assert outcome(row)["status"] == status


def test_a_file_of_tests_that_is_missing() -> None:
    (row,) = outcomes_of("tests/nonsense.py", 1.0)
    assert (row["status"], row["reason"]) == ("skipped", "there is no tests/nonsense.py")


def test_tests_run_in_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_tests(seconds: float, paths: list[str]) -> Iterator[dict[str, Any]]:
        asked.append((seconds, paths))
        yield PASSED

    monkeypatch.setattr(correctness, "run_tests", run_tests)
    (row,) = outcomes_of("tests/bench/test_device.py", 7.0)
    assert row == PASSED | {"file": "tests/bench/test_device.py", "status": "ok"}
    assert asked == [(7.0, ["tests/bench/test_device.py"])]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let `switches.run` check two units, time no layer, and find outcomes of tests. Return what tests may change."""
    found: dict[str, Any] = {"check": lambda unit, device, row, many: row | {"status": "ok"}, "tests": PASSED}
    monkeypatch.setattr(switches, "exactness_units", lambda: [small(WGRAD), small(OVERHANGING)])
    monkeypatch.setattr(exactness, "check", lambda *given: found["check"](*given))
    monkeypatch.setattr(
        switches, "outcomes_of", lambda path, _: iter([{"file": path, **found["tests"], **outcome(found["tests"])}])
    )
    monkeypatch.setattr(switches, "timed", lambda *_: [{"on": on, "status": "ok"} for on in (False, True)])
    return found


def ran(folder: Path) -> tuple[int, results.Results]:
    """Return the exit status and the record of a rehearsal."""
    status = switches.run(argparse.Namespace(out=folder), CPU, Clock(1000), lambda: None)
    return status, results.read(folder / "switches.json")


@needs_interpreter
def test_the_record_has_everything_in_order(tmp_path: Path, quick: dict[str, Any]) -> None:
    status, record = ran(tmp_path)
    assert status == 0
    assert (record["complete"], record["remaining"], record["architecture"]) == (True, [], "interpreter")
    assert "rehearsal" in record
    named = [(row["what"], row["unit"]) for row in record["rows"]]
    first, second = "host_descriptors rn50_c3_3x3 fprop", "dependent_launch rn50_c2_3x3 wgrad"
    assert named[:2] == [("exactness", WGRAD), ("exactness", OVERHANGING)]
    assert named[2:5] == [("tests", "cuda graphs"), ("times", first), ("times", first)]
    assert set(named[5:]) == {("tests", "dependent launch"), ("times", second)}
    assert evidence.confirmed(record) == set()
    with pytest.raises(ValueError, match="holds no times of layers"):
        results.load(tmp_path / "switches.json")


@needs_interpreter
@pytest.mark.long
def test_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit is really computed, and one layer is really timed."""
    monkeypatch.setattr(switches, "exactness_units", lambda: [small(WGRAD)])
    monkeypatch.setattr(switches, "outcomes_of", lambda path, _: iter([PASSED | {"file": path, "status": "ok"}]))
    status, record = ran(tmp_path)
    assert (status, record["complete"]) == (0, True)
    exact, graphs, off, on, dependent, _ = record["rows"]
    assert (exact["unit"], exact["status"], graphs["file"], dependent["file"]) == (WGRAD, "ok", GRAPHS, DEPENDENT)
    assert [(row["on"], row["status"], row["device"]) for row in (off, on)] == [(False, "ok", None), (True, "ok", None)]
    assert off["kernels"] == on["kernels"] == {"fprop": record["environment"]["kernels"]["fprop"]}


@needs_interpreter
def test_tests_that_the_clock_stops(tmp_path: Path, quick: dict[str, Any]) -> None:
    quick["tests"] = PASSED | {"finished": False}
    status, record = ran(tmp_path)
    assert (status, record["complete"], record["stopped"]) == (0, False, "the time of the tests was up")


@needs_interpreter
@pytest.mark.parametrize("how", ["wrong", "raises", "tests"])
def test_what_is_wrong_is_told_and_stops_nothing(
    how: str, tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(unit: Unit, device: torch.device, row: dict[str, Any], many: int) -> Any:
        if how == "raises":
            raise NotKept("nothing is kept")
        return row | {"status": "wrong", "reason": "other bits"}

    if how == "tests":
        quick["tests"] = PASSED | {"failures": [{"test": "a", "message": "b"}]}
    else:
        quick["check"] = broken
    status, record = ran(tmp_path)
    assert status == 1
    assert record["complete"]
    bad = {row["unit"]: row["status"] for row in record["rows"] if row["status"] in ("wrong", "failed")}
    named = {"tests": {"cuda graphs", "dependent launch"}}.get(how, {WGRAD, OVERHANGING})
    assert bad == dict.fromkeys(named, "wrong" if how == "wrong" else "failed")
    said = capsys.readouterr().out
    assert {"wrong": "WRONG: wgrad", "raises": "nothing is kept", "tests": "FAILED: a\nb"}[how] in said


@needs_interpreter
@pytest.mark.parametrize("lost", [False, True])
def test_an_error_outside_of_units(
    lost: bool, tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops the units of one kind, and all others only if the GPU is lost."""

    def fails(*_: Any) -> None:
        raise RuntimeError("no kernel compiles")

    monkeypatch.setattr(switches, "check_exactness", fails)
    monkeypatch.setattr(switches, "lost", lambda _: lost)
    status, record = ran(tmp_path)
    assert status == 1
    first, *others = record["rows"]
    assert (first["unit"], first["status"], first["reason"]) == ("exactness", "failed", "no kernel compiles")
    assert bool(others) != lost
    assert record["stopped"] == ("exactness: no kernel compiles" if lost else "the time was up")


@needs_interpreter
def test_a_lost_gpu_stops_all(tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("illegal memory access")

    quick["check"] = fails
    monkeypatch.setattr(switches, "lost", lambda _: True)
    status, record = ran(tmp_path)
    assert status == 1
    assert record["rows"][0]["unit"] == WGRAD
    assert record["stopped"] == "exactness: illegal memory access"
    assert OVERHANGING in record["remaining"]
    assert [row["what"] for row in record["rows"]] == ["exactness", "work"]


@needs_interpreter
def test_time_that_is_up_is_no_failure(tmp_path: Path, quick: dict[str, Any]) -> None:
    status = switches.run(argparse.Namespace(out=tmp_path), CPU, Clock(0.0), lambda: None)
    record = results.read(tmp_path / "switches.json")
    assert status == 0
    assert record["stopped"] == "the time was up"
    assert {WGRAD, OVERHANGING} <= {*record["remaining"]}
    assert {row["what"] for row in record["rows"]} == {"tests"}


@needs_interpreter
def test_what_one_leaves_over_is_for_the_others(
    tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(
        switches, "check_exactness", lambda record, units, device, kernels, clock: given.append(clock.left())
    )
    monkeypatch.setattr(switches, "time_layers", lambda *arguments: given.append(arguments[-1].left()))
    ran(tmp_path)
    exact, described, _ = given
    assert exact == pytest.approx(420, abs=5)
    assert described == pytest.approx(1000 * 0.27 / 0.41, abs=5)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plan for an H100 that is not there. Return the plans whose kernels were compiled so far."""
    compiled: list[Plan] = []
    monkeypatch.setattr(runtime, "gpu_of", lambda _: H100)
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    monkeypatch.setattr(offline, "precompile", lambda plans, device: compiled.extend(plans))
    return compiled


def begun(folder: Path, names: list[str]) -> Record:
    record = Record(folder / "a.json", part="switches", environment={}, ceilings={})
    record.plan(names)
    return record


def test_both_ways_are_compiled_before(tmp_path: Path, h100: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, the first unit of each dtype and operators has more addresses than descriptors are kept for."""
    many: dict[str, int] = {}
    monkeypatch.setattr(
        exactness, "check", lambda unit, device, row, n: (many.update({unit.name: n}), row | {"status": "ok"})[1]
    )
    every = switches.exactness_units()
    assert [unit.name for unit in every] == [unit.name for unit in units(ON_GPU)]
    record = begun(tmp_path, [unit.name for unit in every])
    switches.check_exactness(record, every, torch.device("cuda"), dict.fromkeys(OPERATORS, "a"), Clock(1000))
    described = [bool(exactness.descriptors(plan)) for plan in h100]
    compared = [unit for unit in every if not unit.by_programs]
    gathered = sum(unit.dtype == "tf32" for unit in compared if "wgrad" in unit.operators)
    assert described.count(True) == sum(len(unit.operators) for unit in compared) - gathered
    assert len(described) == 2 * sum(len(unit.operators) for unit in compared)
    assert {*many.values()} == {kept_descriptors.KEPT_DESCRIPTORS + 2, 2}
    first = {unit.name for unit in every if many[unit.name] > 2}
    assert len(first) == len({(unit.operators, unit.dtype) for unit in compared}) == 12
    assert not first & {unit.name for unit in every if unit.by_programs}
    assert record.content["remaining"] == []


def test_layers_are_compiled_both_ways_before(
    tmp_path: Path, h100: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "timed", lambda *_: [{"on": on, "status": "ok"} for on in (False, True)])
    cuda = torch.device("cuda")
    timed = switches.layers("host_descriptors", cuda)
    record = begun(tmp_path, [f"host_descriptors {layer.name} {operator}" for layer, operator in timed])
    switches.time_layers(record, "host_descriptors", timed, cuda, dict.fromkeys(OPERATORS, "a"), Clock(1000))
    described = [bool(exactness.descriptors(plan)) for plan in h100]
    assert described.count(True) == described.count(False) > len(timed) // 2
    assert len(record.content["rows"]) == 2 * len(timed)


def test_rows_without_tma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "gpu_of", lambda _: Gpu.of("sm_80", 108))
    record = begun(tmp_path, [WGRAD])
    switches.check_exactness(record, [small(WGRAD)], CPU, {}, Clock(10))
    (row,) = record.content["rows"]
    assert (row["status"], row["reason"]) == ("skipped", "sm_80 has no TMA")


def test_names_of_files_and_layers() -> None:
    """A name that is misspelt would only show on a GPU."""
    assert GRAPHS.startswith("tests/")
    assert DEPENDENT.startswith("tests/")
    assert all(select(list(names)) for names in switches.TIMED.values())
    assert sum(switches.SHARES.values()) == pytest.approx(1)
