"""The part `switches` of `python -m bench device`: what it compares, what it finds wrong, and what it records."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device import evidence, exactness, switch_times, switches, tests
from bench.device.current import Evidence
from bench.device.evidence import DEPENDENT
from bench.device.exactness import NotKept
from bench.device.exactness_units import Unit, units
from bench.device.machine import Machine
from bench.device.pretended import Pretended
from bench.device.schedule import Clock, Record
from bench.device.switches import GRAPHS
from bench.device.ways import Way
from bench.device.work import Planned, Scene, Work
from bench.layers import select
from tests.bench.small_units import CPU, H100, HERE, OVERHANGING, WGRAD, needs_interpreter, small
from tests.support.blocks import ON_GPU
from tritonconv import runtime
from tritonconv.gpu import Gpu
from tritonconv.launch import kept_descriptors
from tritonconv.launch.plan import Plan


@needs_interpreter
def test_a_layer_is_timed_both_ways() -> None:
    layer = switch_times.layers("host_descriptors", CPU)[0][0]
    rows = switch_times.timed("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)
    assert [(row["on"], row["status"], row["how"]) for row in rows] == [(False, "ok", "wall"), (True, "ok", "wall")]
    assert all(row["wall"]["runs"] >= 5 for row in rows)
    (row,) = switch_times.timed("host_descriptors", H100.switched(tma=False), layer, "fprop", CPU)
    assert row["status"] == "skipped"


@needs_interpreter
def test_a_layer_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wrong if the two ways differ in a bit, and also if both are wrong."""
    layer = switch_times.layers("host_descriptors", CPU)[0][0]
    given = ("host_descriptors", runtime.gpu_of(CPU), layer, "fprop", CPU)
    monkeypatch.setattr(switch_times, "same_bits", lambda *_: False)
    off, on = switch_times.timed(*given)
    assert (off["status"], on["status"], on["reason"]) == ("ok", "wrong", "other bits than with the switch off")
    assert "wall" not in on
    computation = Way.computation
    monkeypatch.setattr(Way, "computation", lambda *call: lambda: (computation(*call)()[0] * 2,))
    rows = switch_times.timed(*given)
    assert [row["status"] for row in rows] == ["wrong", "wrong"]
    assert "is off by" in rows[0]["reason"]


@pytest.mark.parametrize("switch", evidence.SWITCHES)
def test_layers_that_are_timed_on_a_gpu(switch: str) -> None:
    """The switch makes a difference for most of them, and no operand takes more than a gigabyte."""
    timed = switch_times.layers(switch, torch.device("cuda"))
    assert len(timed) == {"host_descriptors": 24, "dependent_launch": 3}[switch]
    assert all(layer.geometry.minimal_bytes(2) < 1e9 for layer, _ in timed)
    if switches.why_not(switch, H100.architecture) is None:
        pairs = [switch_times.both_plans(switch, H100, *each) for each in timed]
        assert sum(switch_times.differ(*pair) for pair in pairs) > len(pairs) // 2


def test_switches_that_an_architecture_can_not_have() -> None:
    assert switches.why_not("host_descriptors", H100.architecture) is None
    assert switches.why_not("host_descriptors", Gpu.of("sm_80", 108).architecture) == "sm_80 has no TMA"
    assert switches.why_not("nonsense", H100.architecture) == "architectures have no nonsense"
    assert switches.why_not(
        "dependent_launch", runtime.gpu_of(CPU).architecture if HERE == CPU else Gpu.of("sm_80", 1).architecture
    )


def of_tests(path: str, outcome: str = "passed", planned: int = 1) -> dict[str, Any]:
    """Return the row of a file with one test that has run."""
    return tests.row_of(path, [{"test": path, "outcome": outcome, "seconds": 1.0, "message": "b"}], planned)


class Quick(Machine):
    """A machine on which units are right at once, layers are timed at once, and tests have the outcome `tested`."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.tested = ("passed", 1)
        self.asked: list[Sequence[str]] = []
        self.many: dict[str, int] = {}
        self.is_lost = False

    def check(self, unit: Unit, row: Any, many: int) -> Any:
        self.many[unit.name] = many
        return row | {"status": "ok"}

    def time_both_ways(self, *_: Any) -> Any:
        return [{"on": on, "status": "ok"} for on in (False, True)]

    def tests(self, paths: Sequence[str], seconds: float, passed: Sequence[str] = ()) -> Iterator[Any]:
        self.asked.append(paths)
        yield [of_tests(path, *self.tested) for path in paths]

    def lost(self) -> bool:
        return self.is_lost


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Let two units be planned."""
    monkeypatch.setattr(switches, "units_here", lambda _: [small(WGRAD), small(OVERHANGING)])
    return Quick()


def work(folder: Path, machine: Machine, seconds: float = 1000, records: Sequence[results.Results] = ()) -> Work:
    switches.descriptors.cache_clear()
    options = argparse.Namespace(out=folder, rows="all", seed=0)
    scene = Scene(machine, Evidence((*records,), machine.gpu, machine.environment()), options)
    return Work(scene, Clock(seconds), lambda: None, 1, switches.every(scene))


def ran(folder: Path, machine: Machine, seconds: float = 1000) -> tuple[int, results.Results]:
    """Return the exit status and the record of a rehearsal."""
    return switches.run(work(folder, machine, seconds)), results.read(folder / "switches.json")


@needs_interpreter
def test_the_record_has_everything_in_order(tmp_path: Path, quick: Quick) -> None:
    """The quickest is first. Both files of tests run at once."""
    status, record = ran(tmp_path, quick)
    assert status == 0
    assert (record["complete"], record["remaining"], record["architecture"]) == (True, [], "interpreter")
    assert "rehearsal" in record
    named = [(row["what"], row["unit"]) for row in record["rows"]]
    first, second = "host_descriptors rn50_c3_3x3 fprop", "dependent_launch rn50_c2_3x3 wgrad"
    assert quick.asked == [[DEPENDENT, GRAPHS]]
    assert named[:3] == [("tests", "dependent launch"), ("tests", "cuda graphs"), ("times", second)]
    assert named[3:] == [("exactness", WGRAD), ("exactness", OVERHANGING), ("times", first), ("times", first)]
    assert evidence.confirmed(record) == set()
    with pytest.raises(ValueError, match="holds no times of layers"):
        results.load(tmp_path / "switches.json")


@needs_interpreter
def test_what_is_current_is_not_repeated(tmp_path: Path, quick: Quick) -> None:
    """Rows of other kernels are not current, nor units whose descriptors changed, nor files whose tests remain.

    Tests outside of tests/kernels are current only with the same package.
    """
    _, record = ran(tmp_path / "one", quick)

    def missing(record: results.Results) -> list[str]:
        return [each.name for each in work(tmp_path, quick, records=[record]).todo if each.missing]

    assert missing(record) == []
    first, graphs, *_, exact, _, _, on = record["rows"]
    assert (first["unit"], graphs["unit"], exact["unit"]) == ("dependent launch", "cuda graphs", WGRAD)
    graphs["package"], before = "another", graphs["package"]
    assert missing(record) == ["cuda graphs"]
    graphs["package"] = before
    on["kernels"] = {"fprop": "another"}
    record["rows"].remove(record["rows"][-2])
    assert missing(record) == ["host_descriptors rn50_c3_3x3 fprop"]
    exact["descriptors"] = "another"
    graphs["status"] = "stopped"
    first["package"] = "another"
    assert missing(record) == [WGRAD, "cuda graphs", "host_descriptors rn50_c3_3x3 fprop"]
    first["source"] = "another"
    assert "dependent launch" in missing(record)


@needs_interpreter
@pytest.mark.long
def test_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit is really computed, and one layer is really timed."""
    monkeypatch.setattr(switches, "units_here", lambda _: [small(WGRAD)])
    machine, quick = Machine(CPU), Quick()
    monkeypatch.setattr(machine, "tests", quick.tests)
    status, record = ran(tmp_path, machine)
    assert (status, record["complete"]) == (0, True)
    dependent, graphs, _, exact, off, on = record["rows"]
    assert (exact["unit"], exact["status"], graphs["file"], dependent["file"]) == (WGRAD, "ok", GRAPHS, DEPENDENT)
    assert [(row["on"], row["status"], row["device"]) for row in (off, on)] == [(False, "ok", None), (True, "ok", None)]
    assert off["kernels"] == on["kernels"] == {"fprop": record["environment"]["kernels"]["fprop"]}


@needs_interpreter
def test_tests_that_the_clock_stops(tmp_path: Path, quick: Quick) -> None:
    quick.tested = ("passed", 2)
    status, record = ran(tmp_path, quick)
    assert (status, record["complete"], record["stopped"]) == (0, False, "the time was up")
    assert record["remaining"] == ["dependent launch", "cuda graphs"]
    assert record["rows"][0]["passed"] == [DEPENDENT]


@needs_interpreter
def test_a_file_of_tests_that_is_missing(tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "FILES", {"cuda graphs": "tests/nonsense.py"})
    monkeypatch.setattr(tests, "seconds", lambda _: 1.0)
    monkeypatch.setattr(tests, "is_current", lambda *_: False)
    _, record = ran(tmp_path, quick)
    row = record["rows"][0]
    assert (row["status"], row["reason"]) == ("skipped", "there is no tests/nonsense.py")
    assert quick.asked == []


@needs_interpreter
@pytest.mark.parametrize("how", ["wrong", "raises", "tests"])
def test_what_is_wrong_is_told_and_stops_nothing(
    how: str, tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(unit: Unit, row: dict[str, Any], many: int) -> Any:
        if how == "raises":
            raise NotKept("nothing is kept")
        return row | {"status": "wrong", "reason": "other bits"}

    if how == "tests":
        quick.tested = ("failed", 1)
    else:
        monkeypatch.setattr(quick, "check", broken)
    status, record = ran(tmp_path, quick)
    assert status == 1
    assert record["complete"]
    bad = {row["unit"]: row["status"] for row in record["rows"] if row["status"] in ("wrong", "failed")}
    named = {"tests": {"cuda graphs", "dependent launch"}}.get(how, {WGRAD, OVERHANGING})
    assert bad == dict.fromkeys(named, "wrong" if how == "wrong" else "failed")
    said = capsys.readouterr().out
    assert {"wrong": "WRONG: wgrad", "raises": "nothing is kept", "tests": f"FAILED: {GRAPHS}\nb"}[how] in said


@needs_interpreter
@pytest.mark.parametrize("lost", [False, True])
def test_an_error_outside_of_units(lost: bool, tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the units of one kind, and all others only if the GPU is lost."""

    def fails(*_: Any) -> None:
        raise RuntimeError("no kernel compiles")

    monkeypatch.setattr(switches, "check_exactness", fails)
    quick.is_lost = lost
    status, record = ran(tmp_path, quick)
    assert status == 1
    names = [row["unit"] for row in record["rows"]]
    failed = record["rows"][names.index("exactness")]
    assert (failed["status"], failed["reason"]) == ("failed", "no kernel compiles")
    assert (names[-1] == "exactness") == lost
    assert record["stopped"] == ("exactness: no kernel compiles" if lost else "the time was up")


@needs_interpreter
def test_a_lost_gpu_stops_all(tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(quick, "check", fails)
    quick.is_lost = True
    status, record = ran(tmp_path, quick)
    assert status == 1
    assert [row["unit"] for row in record["rows"][-2:]] == [WGRAD, "exactness"]
    assert record["stopped"] == "exactness: illegal memory access"
    assert OVERHANGING in record["remaining"]


@needs_interpreter
def test_time_that_is_up_is_no_failure(tmp_path: Path, quick: Quick) -> None:
    status, record = ran(tmp_path, quick, seconds=0.0)
    assert status == 0
    assert record["stopped"] == "the time was up"
    assert {WGRAD, OVERHANGING} <= {*record["remaining"]}
    assert {row["what"] for row in record["rows"]} <= {"tests"}


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> tuple[Pretended, list[Plan], dict[str, int]]:
    """Return a pretended H100, the plans whose kernels it compiled so far, and how many addresses each unit had."""
    machine, compiled, many = Pretended("NVIDIA H100"), list[Plan](), dict[str, int]()
    monkeypatch.setattr(machine, "compile", lambda plans: compiled.extend(plans))
    monkeypatch.setattr(machine, "check", lambda unit, row, n: (many.update({unit.name: n}), row | {"status": "ok"})[1])
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    return machine, compiled, many


def begun(folder: Path, todo: Sequence[Planned]) -> Record:
    record = Record(folder / "a.json", part="switches", environment={}, ceilings={})
    record.plan(each.name for each in todo)
    return record


def test_both_ways_are_compiled_before(tmp_path: Path, h100: Any) -> None:
    """On a GPU, the first unit of each dtype and operators has more addresses than descriptors are kept for."""
    machine, compiled, many = h100
    every = switches.units_here(machine.gpu)
    assert [unit.name for unit in every] == [unit.name for unit in units(ON_GPU)]
    mine = work(tmp_path, machine)
    todo = [each for each in mine.todo if isinstance(each.unit, Unit)]
    record = begun(tmp_path, todo)
    switches.check_exactness(mine, record, todo)
    described = [bool(exactness.descriptors(plan)) for plan in compiled]
    compared = [unit for unit in every if not unit.by_programs]
    gathered = sum(unit.dtype == "tf32" for unit in compared if "wgrad" in unit.operators)
    assert described.count(True) == sum(len(unit.operators) for unit in compared) - gathered
    assert len(described) == 2 * sum(len(unit.operators) for unit in compared)
    assert {*many.values()} == {kept_descriptors.KEPT_DESCRIPTORS + 2, 2}
    first = {unit.name for unit in every if many[unit.name] > 2}
    assert len(first) == len({(unit.operators, unit.dtype) for unit in compared}) == 12
    assert not first & {unit.name for unit in every if unit.by_programs}
    assert record.content["remaining"] == []


def test_layers_are_compiled_both_ways_before(tmp_path: Path, h100: Any) -> None:
    machine, compiled, _ = h100
    mine = work(tmp_path, machine)
    todo = [each for each in mine.todo if each.name.startswith("host_descriptors ")]
    record = begun(tmp_path, todo)
    switches.time_layers(mine, record, todo, "host_descriptors")
    described = [bool(exactness.descriptors(plan)) for plan in compiled]
    assert described.count(True) == described.count(False) > len(todo) // 2
    assert len(record.content["rows"]) == 2 * len(todo) == 48


def test_rows_without_tma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quick, "gpu", Gpu.of("sm_80", 108))
    unit = Planned(WGRAD, 1, 1.0, 2, small(WGRAD))
    record = begun(tmp_path, [unit])
    mine = work(tmp_path, Quick())
    switches.check_exactness(mine, record, [unit])
    (row,) = record.content["rows"]
    assert (row["status"], row["reason"]) == ("skipped", "sm_80 has no TMA")


def test_names_of_files_and_layers() -> None:
    """A name that is misspelt would only show on a GPU."""
    assert GRAPHS.startswith("tests/")
    assert DEPENDENT.startswith("tests/")
    assert {GRAPHS, DEPENDENT} <= {*tests.files()}
    assert all(select(list(names)) for names in switch_times.TIMED.values())
