"""The part `switches` of `python -m bench device`: what it compares, what it finds wrong, and what it records."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device import correctness, evidence, exactness, switches
from bench.device.evidence import DEPENDENT
from bench.device.exactness import NotKept
from bench.device.exactness_units import Unit, units
from bench.device.schedule import Clock, Record
from bench.device.switches import GRAPHS, outcome, outcomes_of
from bench.device.ways import Way
from bench.layers import select
from bench.lowering import offline
from tests.bench.small_units import CPU, H100, HERE, OVERHANGING, WGRAD, needs_interpreter, small
from tests.support.blocks import ON_GPU
from tritonconv import runtime
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu
from tritonconv.launch import kept_descriptors
from tritonconv.launch.plan import Plan


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
    monkeypatch.setattr(switches, "units_here", lambda: [small(WGRAD), small(OVERHANGING)])
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
    monkeypatch.setattr(switches, "units_here", lambda: [small(WGRAD)])
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
    every = switches.units_here()
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
