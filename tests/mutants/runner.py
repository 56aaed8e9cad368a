"""One mutant in a copy of the repository, with the tests in a process of their own."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.mutants.finder import Mutant

# What is copied, and the files of tests that run kernels. `watch` says which tests come first.
TREES = ("tritonconv", "reference", "tests", "bench", "pyproject.toml")
TESTS = (
    "tests/test_kernels.py",
    "tests/test_every_tile.py",
    "tests/test_phases.py",
    "tests/test_raster.py",
    "tests/test_large_offsets.py",
)


@dataclass(frozen=True)
class Outcome:
    """`status` is survived, killed, hung or crashed; `test` is the one that saw it, `message` what it said."""

    status: str
    test: str
    seconds: float
    message: str


def run(mutant: Mutant | None, root: Path, limit: int = 90) -> Outcome:
    """What the tests say of the repository at `root` with this change, or without one."""
    started = perf_counter()
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        copy_repository(root, copy)
        if mutant is not None:
            (copy / mutant.file).write_bytes(mutant.source)
        files = [name for name in TESTS if (copy / name).exists()]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "watch", "-p", "no:xdist", *files],
            cwd=copy,
            env=environment(copy, limit),
            capture_output=True,
            text=True,
            check=False,
        )
        running = copy / "running.txt"
        test = running.read_text() if running.exists() else "start"
    errors = [line for line in done.stdout.splitlines() if line.startswith("E  ")] or done.stderr.splitlines()[-1:]
    message = errors[0].removeprefix("E").strip()[:200] if errors else ""
    return Outcome(status_of(done.returncode), test, round(perf_counter() - started, 1), message)


def copy_repository(root: Path, copy: Path) -> None:
    for name in TREES:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        elif (root / name).exists():
            shutil.copy(root / name, copy / name)


def environment(copy: Path, limit: int) -> dict[str, str]:
    """Without bytecode: two mutants of one second and one size would be taken for the same."""
    path = os.pathsep.join((str(copy), str(Path(__file__).parent)))
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MUTANTS_LIMIT": str(limit)}


def status_of(code: int) -> str:
    if code == -signal.SIGALRM:
        return "hung"
    if code < 0:
        return "crashed"
    assert code != 5, "pytest found no tests"
    return "killed" if code else "survived"
