"""One mutant in a copy of the repository, with the tests in a process of their own."""

import json
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
    "tests/test_tiled.py",
    "tests/test_launch.py",
    "tests/test_kept.py",
    "tests/test_every_tile.py",
    "tests/test_phases.py",
    "tests/test_raster.py",
    "tests/test_large_offsets.py",
    "tests/test_faults.py",
    "tests/test_faults_around.py",
)

Nursery = subprocess.Popen[str]


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
        files = [name for name in TESTS if (copy / name).exists()]
        code = start(nursery, folder=folder, files=files, limit=limit)
        output, test = (read(copy / name) for name in ("output.txt", "running.txt"))
    assert test, f"pytest did not start: {output}"
    errors = [line for line in output.splitlines() if line.startswith("E  ")] or output.splitlines()[-1:]
    message = errors[0].removeprefix("E").strip()[:200] if errors else ""
    return Outcome(status_of(code), test, round(perf_counter() - started, 1), message)


def nursery() -> Nursery:
    """A process that starts tests; it ends with its input."""
    command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start(nursery: Nursery, **run: object) -> int:
    """pytest's exit status, or less than zero after a signal."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    print(json.dumps(run), file=nursery.stdin, flush=True)
    return int(nursery.stdout.readline())


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
    assert code != 5, "pytest found no tests"
    return "killed" if code else "survived"
