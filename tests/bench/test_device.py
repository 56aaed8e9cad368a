"""`python -m bench device`: its clock, its record that is valid at any moment, its processes, and how it is stopped."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import kernel_identity, results
from bench.device import call, command
from bench.device.machine import Machine
from bench.device.schedule import Clock, Pace, Record, in_time
from bench.device.slices import DEFAULT
from bench.results import ROOT
from tests.support.processes import HANG, environment, python
from tritonconv import dispatch


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worked(lasting: list[float], seconds: float, reserve: float = 0.0) -> int:
    """Return how many units, which last so many seconds one after the other, `in_time` begins within `seconds`."""
    hand, begun = Time(), 0
    for length in in_time(lasting, Clock(seconds, hand), reserve):
        begun += 1
        hand.now += length
    return begun


def test_no_unit_is_begun_that_may_not_end_in_time() -> None:
    assert worked([1, 1, 1, 1], 4) == 4
    assert worked([1, 1, 1, 1], 3.5) == 3
    assert worked([1, 3, 1, 1], 6) == 2  # after the unit of 3 seconds, only 2 are left
    assert worked([1, 1, 1, 1], 4, reserve=2) == 2
    assert worked([5, 1], 3) == 1
    assert worked([1], 0) == 0


def device(folder: Path, *options: str) -> list[str]:
    """Return the command line of `bench device` for one small layer, with records in `folder`."""
    return [sys.executable, "-m", "bench", "device", "--out", str(folder), "--rows", "rn50_c5_1x1_s2_down", *options]


@pytest.mark.parametrize(("times", "reserve", "begun"), [(1, 0, 5), (2, 0, 2), (2, 4, 1), (1, 9, 0)])
def test_units_that_are_done_several_times_need_their_time_as_often(times: int, reserve: float, begun: int) -> None:
    """Each takes two seconds, as expected, and there are eleven."""
    hand = Time()
    pace, done = Pace(Clock(11, hand), times, reserve), 0
    while pace.fits(2):
        with pace.unit(2):
            hand.now += 2
        done += 1
    assert done == begun


def test_units_that_take_longer_than_expected_are_expected_to_take_longer() -> None:
    """After one that took 3 seconds and not 1, the next is expected to take 3, and one unit may be 2 seconds late."""
    hand = Time()
    pace = Pace(Clock(8.5, hand))
    assert pace.fits(8)
    with pace.unit(1):
        hand.now += 3
    assert pace.fits(1)
    assert not pace.fits(1.2)  # 3.6 and 2 seconds late, and there are 5.5
    assert pace.fitting([0.4, 0.4, 0.4, 0.4], lambda seconds: seconds) == [0.4, 0.4]
    assert pace.fitting([0.4, 0.4], lambda seconds: seconds, before=0.5) == [0.4]


def record_of(folder: Path, **environment: Any) -> Record:
    about = {"gpu": "NVIDIA Test", "commit": "abc", "kernels": {}} | environment
    return Record.continued(folder / "a.json", part="times", environment=about, ceilings={})


def test_a_record_is_continued(tmp_path: Path) -> None:
    """It keeps its rows, and what is planned and not done. It is valid at any moment."""
    first = record_of(tmp_path)
    first.plan(["one", "two"])
    first.add("one", [{"layer": "a"}])
    assert results.read(tmp_path / "a.json")["stopped"] == "killed"
    first.close()
    second = record_of(tmp_path)
    second.plan(["two", "three"])
    second.add("three", [{"layer": "b"}], done=False)
    found = results.read(tmp_path / "a.json")
    assert (found["rows"], found["remaining"]) == ([{"layer": "a"}, {"layer": "b"}], ["two", "three"])
    assert (found["complete"], found["stopped"]) == (False, "killed")
    second.add("two", [])
    second.add("three", [])
    second.close()
    assert results.read(tmp_path / "a.json")["complete"]
    with pytest.raises(ValueError, match="differs in commit"):
        record_of(tmp_path, commit="def")


def test_a_record_has_no_number_that_json_lacks(tmp_path: Path) -> None:
    """json.loads of Python reads NaN, other programs refuse the file."""
    record = record_of(tmp_path)
    record.plan([])
    record.add("one", [{"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": -float("inf")}, "e": True}])
    record.close()
    (row,) = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))["rows"]
    assert row == {"a": None, "b": [1.0, None], "c": {"d": None}, "e": True}


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(options)


@pytest.mark.parametrize("statuses", [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
def test_each_slice_runs_whatever_became_of_others(
    statuses: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status is the worst of all slices."""
    machine = Machine(torch.device("cpu"))
    started: list[str] = []

    def start(arguments: Sequence[str], until: float) -> int:
        started.append(parsed(*arguments).slice[0])
        return statuses[len(started) - 1]

    monkeypatch.setattr(machine, "start", start)
    options = ("--slice", "switches", "correctness", "torch", "--rows", "rn50_c5_1x1_s2_down")
    assert call.call(parsed("--out", str(tmp_path), *options), machine) == max(statuses)
    assert started == ["switches", "correctness", "torch"]


def test_a_process_ends_soon_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of a process is that of the command. One that takes too long is ended, and its status is 1."""
    machine = Machine(torch.device("cpu"))
    monkeypatch.setattr("bench.device.machine.GRACE", 0.5)
    popen = subprocess.Popen

    def command(code: str) -> None:
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **how: popen([sys.executable, "-c", code], **how))

    command("import sys; sys.exit(3)")
    assert machine.start([], machine.now() + HANG) == 3
    command("import time; time.sleep(100)")
    begun = machine.now()
    assert machine.start([], begun) == 1
    assert machine.now() - begun < 50


def test_the_time_of_a_call_begins_with_its_process() -> None:
    """The imports of the command are part of its seven minutes."""
    code = "import time; time.sleep(1.5); from bench.device.machine import age; print(age())"
    seconds = float(python("-c", code, CUDA_VISIBLE_DEVICES="").stdout)
    assert 1.5 <= seconds < 60


def test_models_train_by_the_reference_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []
    monkeypatch.setattr("bench.train.run.run", lambda *_: seen.append(dispatch._default.implementation) or 0)
    for kind in ("cpu", "cuda"):
        assert Machine(torch.device(kind)).train(tmp_path / "a.json", Clock(1.0), lambda: None, []) == 0
    assert seen == ["reference", "auto"]


def test_a_process_gets_the_options_of_the_call(tmp_path: Path) -> None:
    """It gets no archive of compiled kernels, because it inherits the cache folder."""
    options = ("--rows", "smoke", "--seed", "7", "--again", "--cache", str(tmp_path))
    args = parsed("--out", str(tmp_path), *options)
    again = parsed(*call.arguments(args))
    assert [getattr(again, name) for name in ("out", "rows", "seed", "again", "cache")] == [
        *(tmp_path, "smoke", 7, True, None)
    ]


def test_the_docstring_has_the_budgets() -> None:
    for each in DEFAULT:
        assert f"  {each.name}{each.seconds:{16 - len(each.name)}.0f} s  " in (command.__doc__ or "")


@pytest.mark.long
def test_a_rehearsal_on_small_problems(tmp_path: Path) -> None:
    """Two processes time a layer in the interpreter. The record is complete and says that it is a rehearsal."""
    _, *options = device(tmp_path, "--slice", "layers", "--seconds", "inf")
    done = python(*options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.md", "times.json"]
    layers = results.read(tmp_path / "times.json")
    assert "rehearsal" in layers
    assert layers["environment"]["kernels"] == kernel_identity.names()
    assert [row["process"] for row in layers["rows"]] == [1] * 10 + [2] * 10
    for row in layers["rows"]:
        assert row["status"] == "ok", row
        assert ("kernels" in row) == (row["contender"] == "triton")
    assert (layers["complete"], layers["remaining"]) == (True, [])


def alive(argument: str) -> bool:
    """Whether a process other than this one has `argument` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument in path.read_text(errors="replace") and path.parent.name != str(os.getpid()):
                return True
    return False


@contextmanager
def running(command: list[str], **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process without a GPU, with the environment variables `more`.

    At the end of the block the process gets SIGTERM. The command itself must then end the processes it has started.
    """
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(command, cwd=ROOT, env=environment(CUDA_VISIBLE_DEVICES="", **more), **quiet) as run:
        try:
            yield run
        finally:
            run.terminate()


def wait_for(run: subprocess.Popen[bytes], found: Callable[[], Any]) -> None:
    """Wait until `found` returns something true.

    Raise AssertionError if the process `run` ends before that, or after HANG seconds.
    """
    end = time.monotonic() + HANG
    while not found():
        assert run.poll() is None, "it ended before"
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.05)


@pytest.mark.long
def test_told_to_stop_in_the_tests(tmp_path: Path) -> None:
    """The tests' processes end with it, and the record has the outcomes so far."""
    path, recorded = tmp_path / "correctness.json", str(tmp_path / "tmp")
    os.mkdir(recorded)
    both = device(tmp_path, "--slice", "correctness", "layers", "--seconds", "10000")
    with running(both, TMPDIR=recorded) as run:
        wait_for(run, lambda: path.exists() and any(row["outcomes"] for row in results.read(path)["rows"]))
        assert alive(recorded)
        run.terminate()
        run.wait(HANG)
    left = results.read(path)
    assert left["rows"][0]["what"] == "tests"
    assert (left["complete"], left["stopped"]) == (False, "killed")
    assert not alive(recorded)


@pytest.mark.long
def test_killed_in_the_middle(tmp_path: Path) -> None:
    """The file is valid, and has everything that was found by then."""
    path = tmp_path / "times.json"
    own = ("--slice", "layers", "--rows", "smoke", "--process", "1", "--until", str(time.monotonic() + 10_000))
    with running(device(tmp_path, *own)) as run:
        wait_for(run, lambda: path.exists() and results.load(path)["rows"])
        run.send_signal(signal.SIGKILL)
    left = results.load(path)
    assert left["rows"]
    assert (left["complete"], left["stopped"]) == (False, "killed")
    assert 0 < len(left["remaining"]) <= 70
