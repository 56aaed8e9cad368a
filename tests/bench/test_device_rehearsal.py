"""`bench device` on a pretended GPU: all slices as they are, with a clock that goes by committed times and guesses."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.device import call, command, current, estimates
from bench.device.pretended import Pretended
from bench.device.slices import DEFAULT, NAMED, WHOLE, deadlines
from bench.device.timed import FILE

H200 = "NVIDIA H200"


def arguments(folder: Path, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["--out", str(folder), *options])


def rehearsed(folder: Path, machine: Pretended, *options: str) -> int:
    """Run a call on the pretended machine, and return its exit status."""
    return call.call(arguments(folder, *options), machine)


def processes(machine: Pretended) -> list[str]:
    """Return a list that grows by each process that the machine starts."""
    found: list[str] = []

    def started(what: str) -> None:
        if what.startswith("process "):
            found.append(what)

    machine.breaks = started
    return found


def test_the_budgets_fit_into_seven_minutes() -> None:
    starts = sum(each.processes for each in DEFAULT) * estimates.START
    assert estimates.FIRST + starts + sum(each.seconds for each in DEFAULT) <= WHOLE == 420
    ends = deadlines(DEFAULT, None)
    assert ends == sorted(ends)
    assert ends[-1] <= WHOLE


def test_seconds_scale_the_budgets() -> None:
    ends, half = deadlines(DEFAULT, None), deadlines(DEFAULT, deadlines(DEFAULT, None)[-1] / 2)
    assert half == pytest.approx([end / 2 for end in ends])
    assert 1e7 < deadlines(DEFAULT, float("inf"))[0] < float("inf")


@pytest.mark.parametrize("slower", [1.0, 1.4])
def test_a_call_ends_in_time_and_its_slices_whole(slower: float, tmp_path: Path) -> None:
    """Also on a machine that is slower than expected. No process is killed, and both processes time the same.

    The training of a network is one long unit, which would be killed on a slow machine.
    """
    machine = Pretended(H200, slower)
    names = [each.name for each in DEFAULT if slower == 1.0 or each.name != "training"]
    assert rehearsed(tmp_path, machine, "--slice", *names) == 0
    assert machine.now() <= WHOLE
    record = results.load(tmp_path / FILE)
    assert record["stopped"] == "the time was up"
    both = {number: [results.key(row) for row in record["rows"] if row["process"] == number] for number in (1, 2)}
    assert len(both[1]) > 30
    assert set(both[2]) <= set(both[1])
    if slower == 1.0:
        assert sorted(both[1]) == sorted(both[2])
    for name in ("switches.json", "correctness.json"):
        assert results.read(tmp_path / name)["stopped"] in (None, "the time was up")


def test_little_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There are at most six files, and the summary has at most 60 lines, also where much is wrong."""

    def wrong(self: Pretended, unit: Any, row: results.Row, many: int) -> results.Row:
        return row | {"status": "wrong", "reason": "other bits\n" * 50}

    machine = Pretended(H200)
    machine.check = wrong.__get__(machine)  # type: ignore[method-assign]
    assert rehearsed(tmp_path, machine) == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {each.file for each in DEFAULT} | {"summary.md"}
    assert len(names) <= 6
    text = (tmp_path / "summary.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n") <= 60
    assert "- wrong fprop plain" in text
    assert "and " in text.partition("## Wrong or failed")[2]
    assert all(each.name in text for each in DEFAULT)
    assert "no number below was measured" in text


UNITS = ("measure ", "check ", "tune ")


def test_a_later_call_goes_on(tmp_path: Path) -> None:
    """What has a current result is not repeated."""
    first: list[str] = []
    second: list[str] = []
    for did in (first, second):
        assert rehearsed(tmp_path, Pretended(H200, breaks=did.append)) == 0
    done, more = ({what for what in did if what.startswith(UNITS)} for did in (first, second))
    assert done & more == set()
    assert len(more) > 50
    names = [row["unit"] for row in results.read(tmp_path / "switches.json")["rows"] if row["what"] == "exactness"]
    assert len(names) == len(set(names)) == 97
    files = [row for row in results.read(tmp_path / "correctness.json")["rows"] if row.get("status") == "ok"]
    assert len(files) > 10


def test_committed_results_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--again repeats them."""
    options = ("--slice", "step", "switches", "--seconds", "200")
    assert rehearsed(tmp_path / "one", Pretended(H200), *options) == 0
    committed = call.read_all(tmp_path / "one")
    for record in committed:
        del record["rehearsal"]
    read = call.read_all
    monkeypatch.setattr(current, "read_all", lambda folder: committed if folder == results.RESULTS else read(folder))
    did: list[str] = []
    machine = Pretended(H200, breaks=did.append)
    assert rehearsed(tmp_path / "two", machine, *options) == 0
    assert did == ["start"]
    assert rehearsed(tmp_path / "two", machine, *options, "--again") == 0
    assert sum(what.startswith(UNITS) for what in did) > 100


def test_a_lost_gpu_stops_its_slice_only(tmp_path: Path) -> None:
    """The next call does last what lost the GPU."""
    seen: list[str] = []

    def broken(what: str) -> None:
        seen.append(what)
        if what.startswith("measure") and "process 1 of layers" in seen and what.endswith("torch triton"):
            raise RuntimeError("illegal memory access")

    assert rehearsed(tmp_path, Pretended(H200, breaks=broken), "--slice", "layers", "precision") == 1
    record = results.load(tmp_path / FILE)
    (lost,) = record["lost"]
    assert lost.startswith("layers: ")
    assert lost.endswith("illegal memory access")
    assert {row["contender"] for row in record["rows"] if row["status"] == "ok"} >= {"torch-nchw", "triton-nchw"}
    failed = {(row["layer"], row["pass"]) for row in record["rows"] if row["status"] == "failed"}
    assert len(failed) == 1
    assert "illegal memory access" in (tmp_path / "summary.md").read_text()
    did: list[str] = []
    assert rehearsed(tmp_path, Pretended(H200, breaks=did.append), "--slice", "layers") == 0
    ((layer, of),) = failed
    assert not any(what.startswith(f"measure {layer} {of} bfloat16") for what in did)
    assert sum(what.startswith("measure") for what in did) > 10


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    """The slices after it have their own time."""
    machine = Pretended(H200)

    def hanging(what: str) -> None:
        if what.startswith("check "):
            machine.time += 1000

    machine.breaks = hanging
    assert rehearsed(tmp_path, machine) == 1
    assert machine.now() <= WHOLE + 10
    assert results.read(tmp_path / "switches.json")["stopped"] == "killed"
    assert len(results.load(tmp_path / FILE)["rows"]) > 50


def test_records_of_other_code_are_not_continued(tmp_path: Path) -> None:
    machine = Pretended(H200)
    assert rehearsed(tmp_path, machine, "--slice", "step", "--seconds", "90") == 0
    before = (tmp_path / FILE).read_text()
    other = Pretended(H200)
    other._environment = other.environment() | {"package": "another"}
    with pytest.raises(ValueError, match="differs in package"):
        rehearsed(tmp_path, other, "--slice", "step")
    with pytest.raises(ValueError, match="differs in gpu"):
        rehearsed(tmp_path, Pretended("NVIDIA H100"), "--slice", "step")
    assert (tmp_path / FILE).read_text() == before


def test_only_processes_with_work_are_started(tmp_path: Path) -> None:
    machine = Pretended(H200)
    started = processes(machine)
    assert rehearsed(tmp_path, machine, "--slice", "step", "--seconds", "90") == 0
    assert started == ["process 1 of step", "process 2 of step"]
    assert rehearsed(tmp_path, machine, "--slice", "step", "--seconds", "90") == 0
    assert len(started) == 2
    assert "Nothing: all is current." in (tmp_path / "summary.md").read_text()


def test_a_unit_that_one_process_has_measured_is_measured_by_the_second(tmp_path: Path) -> None:
    """The first process was killed, or its time was up. The next call begins with the second."""
    machine = Pretended(H200)
    started = processes(machine)
    assert rehearsed(tmp_path, machine, "--slice", "step", "--seconds", "90") == 0
    record = results.read(tmp_path / FILE)
    record["rows"] = [row for row in record["rows"] if row["process"] == 1]
    results.save(tmp_path / FILE, record)
    started.clear()
    assert rehearsed(tmp_path, machine, "--slice", "step", "--seconds", "90") == 0
    assert started == ["process 2 of step"]
    rows = results.load(tmp_path / FILE)["rows"]
    assert [row["process"] for row in rows].count(2) == [row["process"] for row in rows].count(1) == 12


def test_profile_runs_if_it_is_named(tmp_path: Path) -> None:
    """A second call has nothing to do."""
    machine = Pretended(H200)
    started = processes(machine)
    for _ in range(2):
        assert rehearsed(tmp_path, machine, "--slice", "profile", "--seconds", "1000") == 0
    assert started == ["process 1 of profile"]
    record = results.read(tmp_path / "profile.json")
    assert record["complete"]
    assert {row["status"] for row in record["rows"]} == {"profiled"}


def test_every_slice_has_work_on_a_new_gpu(tmp_path: Path) -> None:
    """Each does some of it within its budget."""
    machine = Pretended("NVIDIA H100")
    done = call.slices_of(arguments(tmp_path, "--again"), machine)
    for each in done:
        if each.slice.name != "training" or each.before:
            assert len([unit for unit in each.after if unit.missing]) < len(each.before), each.slice.name
    assert NAMED["profile"] not in {each.slice for each in done}
