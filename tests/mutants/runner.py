"""Run the tests on one mutant, in a copy of the repository and in a process of their own."""

import os
import shutil
import signal
from collections.abc import Sequence
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
TESTS = ("tests/kernels", "tests/faults", "tests/fast_path")
# The direct tests of a file, which run before these and take seconds. Those of the package's other files take minutes.
PLANS = ("tests/kernels/test_arguments.py", "tests/kernels/test_plans.py", "tests/kernels/test_launch.py")
DIRECT = {
    "tritonconv/geometry.py": ("tests/kernels/test_geometry.py", "tests/kernels/test_geometry_properties.py"),
    "tritonconv/dispatch.py": ("tests/kernels/test_sizes.py", "tests/api/test_dispatch.py"),
    "tritonconv/launch/descriptors.py": ("tests/kernels/test_host_descriptors.py",),
    "tritonconv/launch/scratch.py": ("tests/kernels/test_scratch.py",),
    "tritonconv/tiling/descriptors.py": ("tests/kernels/test_host_descriptors.py", "tests/kernels/test_layout.py"),
    "tritonconv/launch/failures.py": ("tests/kernels/test_failures.py",),
    "tritonconv/launch/layout.py": (
        "tests/kernels/test_layout.py",
        "tests/kernels/test_alignment.py",
        "tests/kernels/test_layout_properties.py",
        "tests/kernels/test_launch.py",
    ),
    "tritonconv/launch/kernel_arguments.py": (*PLANS, "tests/kernels/test_layout_properties.py"),
    "tritonconv/launch/plan.py": PLANS,
    "tritonconv/launch/planners.py": (
        *PLANS,
        "tests/kernels/test_split_k.py",
        "tests/kernels/test_host_descriptors.py",
        "tests/kernels/test_dependent_launch.py",
    ),
    "tritonconv/launch/split_k.py": ("tests/kernels/test_split_k.py", *PLANS),
    "tritonconv/launch/start.py": PLANS,
    "tritonconv/launch/tile_choice.py": PLANS,
    "tritonconv/launch/bounded_cache.py": ("tests/kernels/test_cache_bound.py", "tests/fast_path/test_bounds.py"),
    "tritonconv/launch/kept_plan.py": ("tests/kernels/test_plan_cache.py", "tests/kernels/test_alignment.py"),
    "tritonconv/fast_path/guards.py": (
        "tests/fast_path/test_guards.py",
        "tests/fast_path/test_guards_of_tensors.py",
        "tests/fast_path/test_guards_of_transforms.py",
        "tests/fast_path/test_guards_in_backward.py",
        "tests/fast_path/test_guards_of_gradients.py",
    ),
    "tritonconv/fast_path/forward.py": (
        "tests/fast_path/test_keys.py",
        "tests/fast_path/test_guards.py",
        "tests/fast_path/test_guards_of_tensors.py",
        "tests/fast_path/test_guards_of_transforms.py",
    ),
    "tritonconv/fast_path/function.py": (
        "tests/fast_path/test_gradients.py",
        "tests/fast_path/test_guards_in_backward.py",
        "tests/fast_path/test_guards_of_gradients.py",
        "tests/fast_path/test_bounds.py",
    ),
    "tritonconv/fast_path/backward.py": ("tests/fast_path/test_keys.py", "tests/fast_path/test_bounds.py"),
    "tritonconv/settings.py": ("tests/api/test_call.py",),
}


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


def run(
    mutant: Mutant | None, root: Path, fork_server: ForkServer, limit: int = 90, direct_only: bool = False
) -> Outcome:
    """Return the outcome of the tests on a copy of the repository at `root` with this mutant's change.

    If `mutant` is None, the copy is unchanged. The direct tests of the changed file run first. If they pass, all of
    `TESTS` run, unless `direct_only`. Raise AssertionError if pytest does not start or finds no tests. `limit` is the
    processor time in seconds after which a test counts as hung.
    """
    started = perf_counter()
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        copy_repository(root, copy)
        if mutant is not None:
            (copy / mutant.file).write_bytes(mutant.source)
        direct = direct_tests(mutant, copy)
        code = start(fork_server, copy, limit, direct) if direct else 0
        if code == 0 and not direct_only:
            code = start(fork_server, copy, limit, TESTS)
        output, test = (read(copy / name) for name in ("output.txt", "running.txt"))
    if mutant is not None and code == 4:  # the import of tests/conftest.py failed, before any test was found
        code, test = 1, "collection"
    assert test, f"pytest did not start: {output}"
    errors = [line for line in output.splitlines() if line.startswith("E  ")] or output.splitlines()[-1:]
    message = errors[0].removeprefix("E").strip()[:200] if errors else ""
    return Outcome(status_of(code), test, round(perf_counter() - started, 1), message)


def direct_tests(mutant: Mutant | None, root: Path) -> list[str]:
    """Return the direct tests of the file that the mutant changes, or of all files if it is None, without repetition.

    Those that the repository at `root` does not have are left out.
    """
    files = DIRECT if mutant is None else [mutant.file]
    named = dict.fromkeys(test for file in files for test in DIRECT.get(file, ()))
    return [test for test in named if (root / test).exists()]


# The code that runs in a copy. It writes no bytecode, because Python tells sources apart by second and size only, which
# may be the same for two mutants.
CODE = """
import sys
sys.path[:0] = [{copy!r}, {plugins!r}]
sys.dont_write_bytecode = True
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "watch", "-p", "no:xdist", *{tests}]))
"""


def start(fork_server: ForkServer, copy: Path, limit: int, tests: Sequence[str]) -> int:
    """Run pytest on these tests in the copy, and return its exit status, negative after a signal.

    Its output is added to output.txt.
    """
    code = CODE.format(copy=str(copy), plugins=str(Path(__file__).parent), tests=[*tests])
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
