"""`python -m bench device`: its clock, its record that is valid at any moment, its tests and its random problems."""

import argparse
import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import kernel_identity, results
from bench.device import command, correctness
from bench.device.schedule import Clock, in_time
from bench.results import ROOT
from tests.support import steps
from tests.support.processes import HANG, environment, python


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ticking() -> Callable[[], float]:
    """Return a clock that advances by a second each time it is read. It begins at 0."""
    return map(float, count()).__next__


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


@pytest.mark.parametrize("statuses", [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
def test_each_part_runs_alone_whatever_became_of_others(
    statuses: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status is the worst of the parts. By default these are `switches`, `correctness` and `layers`."""
    started: list[str] = []
    monkeypatch.setattr(command, "run_alone", lambda part: (started.append(part), statuses[len(started) - 1])[1])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.main(parser.parse_args(["--out", str(tmp_path)])) == max(statuses)
    assert started == ["switches", "correctness", "layers"]


@pytest.mark.parametrize(("part", "seconds"), [("switches", 170), ("layers", 7)])
def test_the_time_of_a_part(part: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`switches` has a limit of its own, so that the default parts take less than ten minutes."""
    given: list[float] = []
    monkeypatch.setitem(command.PARTS, part, lambda args, device, clock, keep: (given.append(clock.left()), 3)[1])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.main(parser.parse_args(["--out", str(tmp_path), "--part", part, "--seconds", "7"])) == 3
    assert given[0] == pytest.approx(seconds, abs=2)
    assert sum(command.LIMITS.get(each, command.SECONDS) for each in command.DEFAULT) < 600


@pytest.mark.long
def test_a_rehearsal(tmp_path: Path) -> None:
    """A part that is done leaves a record that is complete and says that it is a rehearsal."""
    _, *options = device(tmp_path, "--part", "layers", "--seconds", "inf")
    done = python(*options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.json", "layers.md"]
    layers = results.read(tmp_path / "layers.json")
    assert "rehearsal" in layers
    assert layers["environment"]["kernels"] == kernel_identity.names()
    assert layers["rows"]
    for row in layers["rows"]:
        assert row["status"] == "ok", row
        assert ("kernels" in row) == (row["contender"] == "triton")
    assert (layers["complete"], layers["remaining"]) == (True, [])


def test_a_rehearsal_of_correctness_that_the_clock_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stops the tests at once, and the random problems after some of them."""
    run_tests = correctness.run_tests
    monkeypatch.setattr(correctness, "run_tests", lambda seconds: run_tests(0.0))
    args = argparse.Namespace(out=tmp_path, seed=0)
    assert correctness.run(args, torch.device("cpu"), Clock(10, ticking()), lambda: None) == 0
    record = results.read(tmp_path / "correctness.json")
    assert "rehearsal" in record
    assert (record["complete"], record["stopped"]) == (False, "the time of the tests was up")
    tests, problems = record["rows"]
    assert (tests["finished"], tests["failures"], problems["failures"]) == (False, [], [])
    assert 0 < problems["problems"] <= 10


QUICK = ("tests/kernels/test_geometry.py",)


@pytest.mark.long
def test_the_tests_outcomes_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are collected also if a test file cannot be imported, or if the tests are stopped.

    This runs without xdist.
    """
    monkeypatch.setattr(correctness, "find_spec", lambda _: None)
    broken = tmp_path / "test_broken.py"
    broken.write_text("import a_package_that_is_not_installed\n")
    done = list(correctness.run_tests(inf, [*QUICK, str(broken)], "not slow"))[-1]
    assert done["finished"]
    assert set(done["outcomes"]) == {"passed", "failed"}
    assert done["outcomes"]["passed"] >= 5
    (failure,) = done["failures"]
    assert "a_package_that_is_not_installed" in failure["message"]
    stopped = list(correctness.run_tests(0.0))[-1]
    assert (stopped["finished"], stopped["outcomes"], stopped["failures"]) == (False, {}, [])
    missing = list(correctness.run_tests(inf, ["tests/nonsense.py"]))[-1]
    (failure,) = missing["failures"]
    assert failure["message"].startswith("exit status 4")
    assert "no tests ran" in failure["message"]


# Files whose tests run on the GPU if there is one, but show nothing there that other tests do not.
LEFT_OUT = {
    "tests/sweep/test_sweep.py",
    "tests/bench/test_contenders.py",
    "tests/bench/test_memory.py",
}
# The fixture `device`, and those that take it (`tests/fast_path/conftest.py`).
ON_DEVICE = {"device", "kept", "kept_conv2d"}
# Files whose tests find the device without these fixtures.
FIND_IT = {
    "tests/kernels/test_every_tile.py",
    "tests/kernels/test_large_images.py",
    "tests/kernels/test_large_offsets.py",
    "tests/api/test_cuda_graphs.py",
    "tests/api/test_dispatch.py",
}


def test_what_a_gpu_runs_is_marked() -> None:
    """Every file whose tests run on the GPU has the marker `gpu`. Among these are every tile in every dtype."""
    marked, on_device = set(), set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        name, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
        marks = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
        if any(mark.startswith("pytestmark = ") and "pytest.mark.gpu" in mark for mark in marks):
            marked.add(name)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        tests = [f for f in functions if f.name.startswith("test_")]
        if any(argument.arg in ON_DEVICE for each in tests for argument in each.args.args):
            on_device.add(name)
    assert on_device >= LEFT_OUT
    assert marked == on_device - LEFT_OUT | FIND_IT
    done = python("-m", "pytest", "tests/kernels/test_every_tile.py", "--collect-only", "-q", "-m", correctness.MARKED)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("test_integers_are_exact[") >= 100


EAGER = """
import warnings

def pytest_sessionstart(session):
    if session.config.getoption("dist", "no") != "no":
        warnings.warn("Benchmarks are automatically disabled because xdist plugin is active.")
"""


def test_a_plugin_that_warns_beside_xdist_stops_no_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-benchmark before 5.3 warns at startup under xdist. A plugin of its name stands for it here."""
    pytest.importorskip("xdist")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    about = tmp_path / "eager-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: eager\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pytest11]\nbenchmark = eager\n")
    (tmp_path / "eager.py").write_text(EAGER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = list(correctness.run_tests(inf, QUICK, "not slow"))[-1]
    assert (done["failures"], set(done["outcomes"])) == ([], {"passed"})


def test_random_problems_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random problems find nothing in right kernels.

    If results are off by a fiftieth, every problem with a result is wrong.
    """
    cpu = torch.device("cpu")
    *_, found = correctness.random_problems(cpu, Clock(10, ticking()), first=3)
    assert found["failures"] == []
    assert 0 < found["problems"] <= 10
    right = steps.step
    monkeypatch.setattr(steps, "step", lambda *arguments: [part * 1.02 for part in right(*arguments)])
    *_, found = correctness.random_problems(cpu, Clock(inf), first=3)
    assert len(found["failures"]) == correctness.FAILURES
    assert {"seed", "dtype", "what", "case"} == set(found["failures"][0])
    assert found["seeds"][0] == 3


@pytest.mark.parametrize(("tests", "problems", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_a_failure_is_told(
    tests: int, problems: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"test": "a", "message": "b"}
    of_tests = {"what": "tests", "finished": True, "outcomes": {}, "failures": [failed] * tests}
    of_problems = {"what": "random problems", "problems": 3, "failures": [failed] * problems, "stopped": None}
    monkeypatch.setattr(correctness, "run_tests", lambda seconds: iter([of_tests]))
    monkeypatch.setattr(correctness, "random_problems", lambda *_: iter([of_problems]))
    args = argparse.Namespace(out=tmp_path, seed=0)
    assert correctness.run(args, torch.device("cpu"), Clock(10), lambda: None) == status
    record = results.read(tmp_path / "correctness.json")
    assert record["rows"] == [of_tests, of_problems]
    assert record["complete"]


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
    both = device(tmp_path, "--part", "correctness", "layers", "--seconds", "inf")
    with running(both, TMPDIR=recorded) as run:
        wait_for(run, lambda: path.exists() and results.read(path)["rows"])
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
    path = tmp_path / "layers.json"
    options = ("--part", "layers", "--seconds", "inf", "--rows", "smoke")
    with running(device(tmp_path, *options)) as run:
        wait_for(run, lambda: path.exists() and results.load(path)["rows"])
        run.send_signal(signal.SIGKILL)
    left = results.load(path)
    assert left["rows"]
    assert not left["complete"]
    assert 0 < len(left["remaining"]) < 70
