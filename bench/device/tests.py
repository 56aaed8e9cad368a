"""Runs files of tests on the GPU, and says which files have a current result (`bench.device.current`)."""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.device import estimates
from bench.device.current import Evidence
from bench.device.recorder import LATER
from bench.device.schedule import Clock
from bench.results import ROOT, Row

# The marker of tests that show something on a GPU that they cannot show without one.
MARKED = "gpu and not slow"
# How many seconds before the end no test is begun, whatever it may take.
RESERVE = 3.0
# How many failures are kept for each file.
FAILURES = 20
# Guesses of how many tests a file has: so many for each function, and these where it is far more.
EACH = 6
MANY = {
    "tests/kernels/test_every_tile.py": 188,
    "tests/kernels/test_named_problems.py": 481,
    "tests/api/test_contract.py": 420,
    "tests/api/test_autograd.py": 222,
    "tests/kernels/test_host_descriptors.py": 161,
    "tests/kernels/test_tma.py": 133,
}


@cache
def files() -> tuple[str, ...]:
    """Return the files of tests with the marker `gpu`, the quickest first."""
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if is_marked(path)]
    return tuple(sorted((path.relative_to(ROOT).as_posix() for path in found), key=seconds))


def is_marked(path: Path) -> bool:
    """Whether all tests of a file have the marker `gpu`."""
    marks = [ast.unparse(node) for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    return any(mark.startswith("pytestmark = ") and "pytest.mark.gpu" in mark for mark in marks)


@cache
def seconds(path: str) -> float:
    """Return an estimate of how many seconds a file's tests take beside other tests."""
    return estimates.TEST * MANY.get(path, EACH * (ROOT / path).read_text().count("def test_"))


def identity(path: str, now: dict[str, Any]) -> Row:
    """Return what a result of a file of tests depends on. `now` is the environment of a record that is begun now."""
    found: Row = {"file": path, "kernels": now["kernels"], "source": source(path)}
    return found if path.startswith("tests/kernels/") else found | {"package": now["package"]}


@cache
def source(path: str) -> str:
    """Return a hash of a file of tests, and of the files that tests share."""
    return hashlib.sha256((ROOT / path).read_bytes() + shared()).hexdigest()[:12]


@cache
def shared() -> bytes:
    """Return the content of the files that tests share."""
    paths = [ROOT / "tests" / "conftest.py", *sorted((ROOT / "tests" / "support").glob("*.py"))]
    return b"".join(path.read_bytes() for path in paths if not path.name.startswith("test_"))


def known(path: str, evidence: Evidence) -> list[Row]:
    """Return the rows of a file of tests that are current, of both parts that run tests."""
    wanted = identity(path, evidence.now)
    runs = [*evidence.of_architecture("switches"), *evidence.of_architecture("correctness")]
    rows = [row for run in runs for row in run["rows"] if row["what"] == "tests" and row.get("file") == path]
    return [row for row in rows if {name: row.get(name) for name in wanted} == wanted]


def is_current(path: str, evidence: Evidence) -> bool:
    """Whether all tests of a file ended without a failure."""
    return any(row.get("status") == "ok" for row in known(path, evidence))


def passed(paths: Sequence[str], evidence: Evidence) -> list[str]:
    """Return the names of tests that passed in an earlier call, which did not end its file."""
    return [name for path in paths for row in known(path, evidence) for name in row.get("passed", ())]


def run(paths: Sequence[str], seconds: float, passed: Sequence[str] = ()) -> Iterator[list[Row]]:
    """Run the tests in processes of their own, and yield the rows of all files so far every few seconds.

    The last rows are final. No test is begun that may not end within `seconds`; then the tests are killed. If pytest
    itself fails, that counts as a failure of a file called pytest.
    """
    clock = Clock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, log, before = (Path(folder) / name for name in ("outcomes", "log", "passed"))
        before.write_text("\n".join(passed))
        options = [
            "--record",
            str(outcomes),
            "--leave-out",
            str(before),
            "--until",
            str(time.monotonic() + seconds - RESERVE),
        ]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command(), *paths, *options],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None and clock.left() > 0:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, min(5.0, clock.left())))
                    yield by_file(paths, outcomes, passed)
            finally:  # also if this process is told to stop
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        rows = by_file(paths, outcomes, passed)
        # 5 says that no tests were collected, for example because all of them passed before.
        if process.returncode not in (0, 1, 5, -signal.SIGKILL):
            message = f"exit status {process.returncode}: {log.read_text()[-2000:]}"
            rows.append(of_pytest([{"test": "pytest", "message": message}]))
        yield rows


def command() -> list[str]:
    """Return the command that runs tests, in as many processes as xdist may start here, in the order of their files."""
    workers = ["-n", str(min(14, os.cpu_count() or 1)), "--maxschedchunk", "1"] if find_spec("xdist") else []
    # pytest-benchmark would warn that it does nothing beside xdist, and warnings are errors. A package that a test file
    # imports may be missing on the GPU's machine: the tests of the other files run all the same.
    plugins = ["-p", "no:benchmark", "-p", "bench.device.recorder"]
    return [sys.executable, "-m", "pytest", "-q", "-m", MARKED, "--continue-on-collection-errors", *plugins, *workers]


def by_file(paths: Sequence[str], outcomes: Path, passed: Sequence[str]) -> list[Row]:
    """Return a row for each file of tests, from what `bench.device.recorder` has written to the file `outcomes`.

    `passed` names the tests that were left out.
    """
    lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    found = []
    for line in lines:
        with suppress(json.JSONDecodeError):  # the last line may be half written
            found.append(json.loads(line))
    planned = next((each["collected"] for each in found if "collected" in each), None)
    ran = [each for each in found if "test" in each and not each.get("message", "").endswith(LATER)]
    rows = []
    for path in paths:
        name = os.path.relpath(ROOT / path, ROOT)  # as pytest calls it
        mine = [each for each in ran if each["test"].startswith(name)]
        before = any(each.startswith(name) for each in passed)
        rows.append(row_of(path, mine, None if planned is None else planned.get(name, 0), before))
        ran = [each for each in ran if each not in mine]
    if failures := [each for each in ran if each["outcome"] == "failed"]:
        rows.append(of_pytest(failures))
    return rows


def of_pytest(failures: Sequence[Row]) -> Row:
    """Return the row of failures that are of no file of tests."""
    reason = str(failures[0]["message"])
    row: Row = {"what": "tests", "file": "pytest", "status": "failed", "reason": reason, "outcomes": {}}
    return row | {"failures": [*failures[:FAILURES]]}


def row_of(path: str, ran: Sequence[Row], planned: int | None, before: bool = False) -> Row:
    """Return the row of a file of tests, of which `planned` were to run, and `ran` were run.

    `planned` is None as long as it is not known. `before` says that some of its tests passed in an earlier call. The
    status is "ok", "failed", "stopped" if tests remain, or "skipped" if there is no test or all were skipped.
    """
    outcomes = Counter(each["outcome"] for each in ran)
    row: Row = {
        "what": "tests",
        "file": path,
        "tests": planned,
        "outcomes": dict(outcomes),
        "seconds": round(sum(each["seconds"] for each in ran), 1),
        "skipped": dict(Counter(each["message"] for each in ran if each["outcome"] == "skipped")),
        "failures": [each for each in ran if each["outcome"] == "failed"][:FAILURES],
    }
    if row["failures"]:
        names = ", ".join(failure["test"] for failure in row["failures"])
        return row | {"status": "failed", "reason": f"these tests failed: {names}"[:300]}
    ended = {each["test"] for each in ran}
    if planned is None or len(ended) < planned:
        done = sorted(each["test"] for each in ran if each["outcome"] == "passed")
        return row | {"status": "stopped", "reason": LATER, "passed": done}
    if not outcomes["passed"] and not before:
        return row | {
            "status": "skipped",
            "reason": f"no test ran: {', '.join(row['skipped']) or 'there is none'}"[:300],
        }
    return row | {"status": "ok"}
