"""Run the tests on one mutant, in a copy of the repository and in a process of their own."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.mutants.finder import Mutant
from tests.mutants.watch import WAITING
from tests.support.processes import ForkServer

# The files and folders that are copied, and the folders of tests that run on a mutant. These are the tests that run
# kernels. pytest refuses to start if one of the folders is missing.
TREES = ("tritonconv", "reference", "tests", "bench", "pyproject.toml")
TESTS = ("tests/kernels", "tests/faults")


@dataclass(frozen=True)
class Outcome:
    """What the tests did on one mutant.

    `status` is survived, killed (a test failed), hung, crashed or equivalent (not run, and `message` is the reason).
    `test` is the last test that ran. `message` is the first error that pytest printed, else its last line.
    """

    status: str
    test: str
    seconds: float
    message: str

    def __str__(self) -> str:
        did = {
            "survived": "survived: all tests passed",
            "killed": f"killed by {self.test}",
            "hung": f"hung, and so killed, in {self.test}",
            "crashed": f"crashed, and so killed, in {self.test}",
        }
        return f"{did[self.status]} ({self.seconds} s)"


def run(mutant: Mutant | None, root: Path, fork_server: ForkServer, limit: int = 90) -> Outcome:
    """Return the outcome of the tests on a copy of the repository at `root` with this mutant's change.

    If `mutant` is None, the copy is unchanged. Raise AssertionError if pytest does not start or finds no tests.
    `limit` is the processor time in seconds after which a test counts as hung.
    """
    started = perf_counter()
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        copy_repository(root, copy)
        if mutant is not None:
            (copy / mutant.file).write_bytes(mutant.source)
        code = start(fork_server, copy, limit)
        output, test = (read(copy / name) for name in ("output.txt", "running.txt"))
    assert test, f"pytest did not start: {output}"
    errors = [line for line in output.splitlines() if line.startswith("E  ")] or output.splitlines()[-1:]
    message = errors[0].removeprefix("E").strip()[:200] if errors else ""
    return Outcome(status_of(code), test, round(perf_counter() - started, 1), message)


# The code that runs in a copy. It writes no bytecode, because Python tells sources apart by second and size only, which
# may be the same for two mutants.
CODE = """
import sys
sys.path[:0] = [{copy!r}, {plugins!r}]
sys.dont_write_bytecode = True
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "watch", "-p", "no:xdist", *{folders}]))
"""


def start(fork_server: ForkServer, copy: Path, limit: int) -> int:
    """Run pytest in the copy, and return its exit status, negative after a signal. Its output is in output.txt."""
    code = CODE.format(copy=str(copy), plugins=str(Path(__file__).parent), folders=TESTS)
    output = copy / "output.txt"
    given = {**os.environ, "MUTANTS_LIMIT": str(limit), "TESTS_HANG": str(WAITING * limit)}
    return fork_server.run(code, copy, given, output, output)


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def copy_repository(root: Path, copy: Path) -> None:
    for name in TREES:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        elif (root / name).exists():
            shutil.copy(root / name, copy / name)


def status_of(code: int) -> str:
    """Return the outcome's status for pytest's exit status. The timers of `watch` end a test that hangs by a signal."""
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return "hung"
    if code < 0:
        return "crashed"
    assert code not in (4, 5), "pytest found no tests"
    return "killed" if code else "survived"
