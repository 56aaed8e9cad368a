"""One mutant in a copy of the repository, with the tests in a process of their own."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.mutants.finder import Mutant
from tests.mutants.watch import WAITING
from tests.support.processes import Nursery

# What is copied, and the folders of tests that run kernels. pytest refuses to start if one of them is gone.
TREES = ("tritonconv", "reference", "tests", "bench", "pyproject.toml")
TESTS = ("tests/kernels", "tests/faults")


@dataclass(frozen=True)
class Outcome:
    """`status` is survived, killed, hung or crashed; `test` is the one that saw it, `message` what it said."""

    status: str
    test: str
    seconds: float
    message: str


def run(mutant: Mutant | None, root: Path, nursery: Nursery, limit: int = 90) -> Outcome:
    """What the tests say of the repository at `root` with this change, or without one."""
    started = perf_counter()
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        copy_repository(root, copy)
        if mutant is not None:
            (copy / mutant.file).write_bytes(mutant.source)
        code = start(nursery, copy, limit)
        output, test = (read(copy / name) for name in ("output.txt", "running.txt"))
    assert test, f"pytest did not start: {output}"
    errors = [line for line in output.splitlines() if line.startswith("E  ")] or output.splitlines()[-1:]
    message = errors[0].removeprefix("E").strip()[:200] if errors else ""
    return Outcome(status_of(code), test, round(perf_counter() - started, 1), message)


# What is run in a copy. No bytecode is written: two mutants of one second and one size would be taken for the same.
CODE = """
import sys
sys.path[:0] = [{copy!r}, {plugins!r}]
sys.dont_write_bytecode = True
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "watch", "-p", "no:xdist", *{folders}]))
"""


def start(nursery: Nursery, copy: Path, limit: int) -> int:
    """pytest's exit status, or less than zero after a signal. What it says is in output.txt."""
    code = CODE.format(copy=str(copy), plugins=str(Path(__file__).parent), folders=TESTS)
    output = copy / "output.txt"
    given = {**os.environ, "MUTANTS_LIMIT": str(limit), "TESTS_HANG": str(WAITING * limit)}
    return nursery.run(code, copy, given, output, output)


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def copy_repository(root: Path, copy: Path) -> None:
    for name in TREES:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        elif (root / name).exists():
            shutil.copy(root / name, copy / name)


def status_of(code: int) -> str:
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return "hung"
    if code < 0:
        return "crashed"
    assert code not in (4, 5), "pytest found no tests"
    return "killed" if code else "survived"
