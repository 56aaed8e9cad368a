"""The part `correctness` of `bench device`: the tests on this GPU, and random problems until the time is up."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.device.schedule import Clock, Record, in_time
from bench.run.contenders import DTYPES
from tests.sweep.check import wrong
from tests.sweep.problems import integers, problem

# The marker of tests that show something on a GPU that they cannot show without one.
MARKED = "gpu and not slow"
# The share of the time that the tests may take; the rest is for random problems.
TESTS_SHARE = 0.6
# How many failures are kept in the record, and how many are printed.
FAILURES, SHOWN = 20, 5


def run(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """Write `correctness.json`: one row for the tests, one for the random problems.

    Return the exit status: 1 if a test failed or a result was wrong.
    """
    about: dict[str, Any] = {"part": "correctness", "environment": results.environment(device), "ceilings": {}}
    if device.type == "cpu":
        about["rehearsal"] = "in Triton's interpreter"
    record = Record(args.out / "correctness.json", **about)
    record.plan(["tests", "random problems"])
    for tests in run_tests(clock.left() * TESTS_SHARE):
        record.show([tests])
    record.add("tests", [tests])
    keep()
    for problems in random_problems(device, clock, args.seed):
        record.show([problems])
    record.add("random problems", [problems])
    record.close(problems["stopped"] or (None if tests["finished"] else "the time of the tests was up"))
    ended = "complete" if tests["finished"] else "stopped, the time was up"
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in tests["outcomes"].items()) or "none ran"
    print(f"correctness: tests ({ended}): {outcomes}")
    print(f"correctness: {problems['problems']} random problems, {len(problems['failures'])} wrong")
    for each in [*tests["failures"], *problems["failures"]][:SHOWN]:
        print(described(each))
    return int(bool(tests["failures"] or problems["failures"]))


def described(failure: dict[str, Any]) -> str:
    """Return the lines that describe a test that failed, or a random problem whose result was wrong."""
    if "test" in failure:
        return f"FAILED: {failure['test']}\n{failure['message']}"
    return f"WRONG: random problem {failure['seed']} in {failure['dtype']}: {failure['what']}\n{failure['case']}"


def run_tests(seconds: float, paths: Sequence[str] = ("tests",), marked: str = MARKED) -> Iterator[results.Row]:
    """Run the tests in processes of their own, and yield the row of their outcomes so far every few seconds.

    `marked` is pytest's expression for the markers of the tests in `paths` that run. The last row is final. After
    `seconds`, the tests are killed. If pytest itself fails, that counts as a failure.
    """
    clock = Clock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, log = Path(folder) / "outcomes", Path(folder) / "log"
        workers = ["-n", str(min(14, os.cpu_count() or 1)), "--maxschedchunk", "1"] if find_spec("xdist") else []
        # pytest-benchmark would warn that it does nothing beside xdist, and warnings are errors.
        plugins = ["-p", "no:benchmark", "-p", "bench.device.recorder", "--record", str(outcomes)]
        # A package that a test file imports may be missing on the GPU's machine. The tests of the other files run all
        # the same.
        options = ["-q", "-m", marked, "--continue-on-collection-errors", *plugins]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *paths, *workers, *options],
                cwd=results.ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None and clock.left() > 0:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, min(5.0, clock.left())))
                    yield of_tests(outcomes, finished=process.poll() is not None)
            finally:  # also if this process is told to stop
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        row = of_tests(outcomes, finished=process.returncode != -signal.SIGKILL)
        if row["finished"] and process.returncode not in (0, 1):
            said = log.read_text()[-2000:]
            row["failures"].append({"test": "pytest", "message": f"exit status {process.returncode}: {said}"})
        yield row


def of_tests(outcomes: Path, finished: bool) -> results.Row:
    """Return the row of the tests whose outcomes `bench.device.recorder` has written to the file `outcomes` so far."""
    lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    ran = []
    for line in lines:
        with suppress(json.JSONDecodeError):  # the last line may be half written
            ran.append(json.loads(line))
    return {
        "what": "tests",
        "finished": finished,
        "outcomes": dict(Counter(each["outcome"] for each in ran)),
        "tiles": dict(Counter(each["outcome"] for each in ran if "test_every_tile" in each["test"])),
        "skipped": dict(Counter(each["message"] for each in ran if each["outcome"] == "skipped")),
        "failures": [each for each in ran if each["outcome"] == "failed"][:FAILURES],
    }


def random_problems(device: torch.device, clock: Clock, first: int) -> Iterator[results.Row]:
    """Check the random problems of `tests.sweep` from seed `first` on, in every dtype, until the time is up.

    Yield the row of what was found so far every few seconds, and a last time at the end. The checks also end after
    FAILURES failures, or if the GPU is lost.
    """
    done: Counter[str] = Counter()
    found: results.Row = {"what": "random problems", "failures": [], "stopped": None}
    shown = clock.left()
    warnings.filterwarnings("ignore", "Using padding='same'")  # torch warns when it computes the expected result
    for seed in in_time(count(first), clock):
        # Of four seeds in a row, two are of Conv2d and two of ConvTranspose2d, each once with integers and once with
        # other numbers. So every dtype gets four seeds in a row.
        case = problem(seed, list(DTYPES)[seed // 4 % len(DTYPES)])
        failure = wrong(case, str(device), integers(seed), seed)
        if failure is not None:
            found["stopped"] = failure if results.lost(device) else None
            found["failures"].append(dict(seed=seed, dtype=case.dtype, what=failure, case=case.line))
        done[case.dtype] += 1
        found |= {"seeds": [first, seed], "problems": sum(done.values()), "by_dtype": dict(done)}
        if shown - clock.left() > 5:
            shown = clock.left()
            yield found
        if found["stopped"] or len(found["failures"]) >= FAILURES:
            break
    yield {"seeds": [], "problems": 0, "by_dtype": {}} | found
