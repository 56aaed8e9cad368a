"""The slice `correctness` of `bench device`: the tests that run on a GPU, what is kept of them, and random problems."""

import argparse
import ast
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device import command, correctness, tests
from bench.device.current import Evidence
from bench.device.machine import Machine
from bench.device.schedule import Clock
from bench.device.work import Planned, Scene, Work
from bench.results import ROOT
from tests.support import steps
from tests.support.processes import python


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(options)


QUICK = ("tests/kernels/test_geometry.py",)


@contextmanager
def written(code: str) -> Iterator[str]:
    """Write a file of tests with this code, which exists within the block. Yield its name."""
    path = ROOT / "tests" / f"test_written_{os.getpid()}.py"
    path.write_text(code)
    try:
        yield path.relative_to(ROOT).as_posix()
    finally:
        path.unlink()


@pytest.mark.long
def test_the_tests_outcomes_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are collected also if a test file cannot be imported, or if the tests are stopped.

    This runs without xdist.
    """
    monkeypatch.setattr(tests, "find_spec", lambda _: None)
    monkeypatch.setattr(tests, "MARKED", "not slow")
    with written("import a_package_that_is_not_installed\n") as broken:
        *_, (quick, failed) = tests.run([*QUICK, broken], 300)
    assert (quick["status"], set(quick["outcomes"])) == ("ok", {"passed"})
    assert quick["outcomes"]["passed"] == quick["tests"] >= 5
    assert (failed["file"], failed["status"]) == (broken, "failed")
    assert "a_package_that_is_not_installed" in failed["failures"][0]["message"]
    *_, (stopped,) = tests.run(QUICK, 0.0)
    assert (stopped["status"], stopped["outcomes"], stopped["passed"]) == ("stopped", {}, [])
    *_, (_, missing) = tests.run(["tests/nonsense.py"], 300)
    assert (missing["file"], missing["status"]) == ("pytest", "failed")
    assert missing["reason"].startswith("exit status 4")
    assert "no tests ran" in missing["reason"]


TWO = """
import time
import pytest
pytestmark = pytest.mark.gpu
def test_one(): time.sleep(0.2)
def test_two(): time.sleep(0.2)
"""


@pytest.mark.long
def test_tests_that_passed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With them the file is complete, also if none remains. No test is begun when the time is nearly up."""
    with written(TWO) as name:
        *_, (row,) = tests.run([name], 300, [f"{name}::test_one"])
        assert (row["status"], row["tests"], row["outcomes"]) == ("ok", 1, {"passed": 1})
        *_, (row,) = tests.run([name], 300, [f"{name}::test_one", f"{name}::test_two"])
        assert (row["status"], row["tests"]) == ("ok", 0)
        monkeypatch.setattr(tests, "RESERVE", 300)
        *_, (row,) = tests.run([name], 300)
        assert (row["status"], row["tests"], row["outcomes"], row["passed"]) == ("stopped", 2, {}, [])


def test_the_status_of_a_file() -> None:
    passed, skipped = ({"test": "a::b", "outcome": each, "seconds": 1.0} for each in ("passed", "skipped"))
    skipped["message"] = "why"
    failed = passed | {"outcome": "failed", "message": "c"}
    found = [
        tests.row_of("a", ran, planned)["status"]
        for ran, planned in (([passed], 1), ([passed], 2), ([passed], None), ([failed], 2), ([skipped], 1), ([], 0))
    ]
    assert found == ["ok", "stopped", "stopped", "failed", "skipped", "skipped"]
    assert tests.row_of("a", [], 0, before=True)["status"] == "ok"
    assert tests.row_of("a", [passed], 2)["passed"] == ["a::b"]
    assert tests.row_of("a", [skipped], 1)["reason"] == "no test ran: why"


def test_no_failure_is_lost(tmp_path: Path) -> None:
    """Not even one that pytest gives no file."""
    lines = [
        {"collected": {"a": 1}},
        *({"test": name, "outcome": "failed", "seconds": 1, "message": "c"} for name in ("a::b", "")),
    ]
    (tmp_path / "outcomes").write_text("\n".join(map(json.dumps, lines)) + '\n{"test": "half wri')
    rows = tests.by_file(["a"], tmp_path / "outcomes", [])
    assert [(row["file"], row["status"], len(row["failures"])) for row in rows] == [
        *(("a", "failed", 1), ("pytest", "failed", 1))
    ]


def test_the_slowest_files_are_last() -> None:
    """The last is not the one with most functions, but with most tests."""
    files = tests.files()
    assert files[-1] == "tests/kernels/test_named_problems.py"
    assert [tests.seconds(path) for path in files] == sorted(map(tests.seconds, files))
    assert set(tests.MANY) <= set(files)


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
        if tests.is_marked(path):
            marked.add(name)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        mine = [f for f in functions if f.name.startswith("test_")]
        if any(argument.arg in ON_DEVICE for each in mine for argument in each.args.args):
            on_device.add(name)
    assert on_device >= LEFT_OUT
    assert marked == on_device - LEFT_OUT | FIND_IT
    done = python("-m", "pytest", "tests/kernels/test_every_tile.py", "--collect-only", "-q", "-m", tests.MARKED)
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
    monkeypatch.setattr(tests, "MARKED", "not slow")
    *_, (row,) = tests.run(QUICK, 300)
    assert (row["failures"], set(row["outcomes"])) == ([], {"passed"})


def work(folder: Path, machine: Machine, todo: list[Planned], seconds: float = 1000) -> Work:
    """Return the work of a process on this machine, without any evidence."""
    scene = Scene(machine, Evidence((), machine.gpu, machine.environment()), parsed("--out", str(folder)))
    return Work(scene, Clock(seconds), lambda: None, 1, todo)


def test_random_problems_find_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random problems find nothing in right kernels.

    If results are off by a fiftieth, every problem with a result is wrong.
    """
    some = range(4, 8)
    mine = work(tmp_path, Machine(torch.device("cpu")), [Planned(correctness.name_of(some), 1, 1.0, unit=some)])
    assert correctness.run(mine) == 0
    (right,) = results.read(tmp_path / "correctness.json")["rows"]
    assert (right["seeds"], right["problems"], right["dtype"], right["failures"]) == ([4, 7], 4, "float16", [])
    step = steps.step
    monkeypatch.setattr(steps, "step", lambda *arguments: [part * 1.02 for part in step(*arguments)])
    assert correctness.run(mine) == 1
    _, wrong = results.read(tmp_path / "correctness.json")["rows"]
    assert len(wrong["failures"]) == 4
    assert {"seed", "dtype", "what", "case"} == set(wrong["failures"][0])


@pytest.mark.parametrize(("failed", "wrong", "status"), [(False, False, 0), (True, False, 1), (False, True, 1)])
def test_a_failure_is_told(
    failed: bool, wrong: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    outcome = {"test": "a", "outcome": "failed" if failed else "passed", "seconds": 1.0, "message": "b"}
    machine = Machine(torch.device("cpu"))
    monkeypatch.setattr(machine, "tests", lambda paths, *_: iter([[tests.row_of(paths[0], [outcome], 1)]]))
    monkeypatch.setattr(machine, "wrong", lambda *_: ("the problem", "off by 2") if wrong else None)
    todo = [Planned("a", 1, 1.0, unit="a"), Planned("random problems 0 to 3", 1, 1.0, unit=range(4))]
    monkeypatch.setattr(tests, "source", lambda path: "hash")
    assert correctness.run(work(tmp_path, machine, todo)) == status
    record = results.read(tmp_path / "correctness.json")
    assert [row["status"] for row in record["rows"]] == ["failed" if failed else "ok", "wrong" if wrong else "ok"]
    assert record["complete"]
    said = capsys.readouterr().out
    assert ("FAILED: a\nb" in said) == failed
    assert ("WRONG: random problem 0 in bfloat16: off by 2\nthe problem" in said) == wrong
