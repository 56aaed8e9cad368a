"""Whether the kernels are right on this GPU: the tests, and random problems until the time is up."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch

import tritonconv
from bench import results
from bench.contenders import DTYPES, at_its_best
from bench.schedule import Clock, Record, in_time
from tests.cases import LAYOUTS, random_case
from tests.oracle import PARTS, TOLERANCES, errors, expected_step, forward, hostile, scales, step

# The tests that run kernels, those first that say most: every shipped tile in every dtype.
TESTS = ("every_tile", "kernels", "phases", "autograd", "torch_cases", "contract", "dispatch", "warmup")
# The share of the time that the tests may take; the rest is for random problems.
TESTS_SHARE = 0.6
FAILURES = 20


def run(args: argparse.Namespace, device: torch.device, clock: Clock) -> int:
    """`correctness.json`: one row for the tests, one for the random problems. 1 if anything failed."""
    about: dict[str, Any] = {"part": "correctness", "environment": results.environment(device), "ceilings": {}}
    if device.type == "cpu":
        about["rehearsal"] = "in Triton's interpreter"
    record = Record(args.out / "correctness.json", **about)
    record.plan(["tests", "random problems"])
    tests = run_tests(clock.left() * TESTS_SHARE, args.out / "tests.log")
    record.add("tests", [tests])
    problems = random_problems(device, clock, args.seed)
    record.add("random problems", [problems])
    record.close(None if tests["finished"] else "the time of the tests was up")
    print(
        f"correctness: {tests['outcomes']}, {problems['problems']} random problems, {len(problems['failures'])} wrong"
    )
    return int(bool(tests["failures"] or problems["failures"]))


def run_tests(seconds: float, log: Path, names: Sequence[str] = TESTS) -> results.Row:
    """The outcomes of as many tests as fit into the time, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        workers = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []
        files = [f"tests/test_{name}.py" for name in names]
        options = ["-q", "-m", "not slow", "-p", "bench.recorder", "--record", str(outcomes)]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *files, *workers, *options],
                cwd=results.ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                finished = process.wait(seconds) is not None
            except subprocess.TimeoutExpired:
                finished = False
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    ran = [json.loads(line) for line in lines]
    failures = [each for each in ran if each["outcome"] == "failed"]
    if finished and process.returncode not in (0, 1):
        failures.append({"test": "pytest", "message": f"exit status {process.returncode}: see {log.name}"})
    return {
        "what": "tests",
        "finished": finished,
        "outcomes": dict(Counter(each["outcome"] for each in ran)),
        "tiles": dict(Counter(each["outcome"] for each in ran if "test_every_tile" in each["test"])),
        "skipped": dict(Counter(each["message"] for each in ran if each["outcome"] == "skipped")),
        "failures": failures[:FAILURES],
    }


def random_problems(device: torch.device, clock: Clock, first: int) -> results.Row:
    """One seed after another: forward and all gradients of a random problem, against float64."""
    failures: list[dict[str, Any]] = []
    done: Counter[str] = Counter()
    seed = first
    for seed in in_time(count(first), clock):
        dtype = list(DTYPES)[seed % len(DTYPES)]
        transposed = seed // len(DTYPES) % 2 == 1
        problem = dict(seed=seed, transposed=transposed, dtype=dtype)
        try:
            wrong = check_random(seed, transposed, dtype, device)
        except Exception as error:
            wrong = f"{type(error).__name__}: {f'{error}'[:500]}"
            if results.is_sticky(error):
                failures.append(problem | {"what": wrong})
                break
        if wrong:
            failures.append(problem | {"what": wrong})
        done[dtype] += 1
        if len(failures) >= FAILURES:
            break
    return {
        "what": "random problems",
        "seeds": [first, seed],
        "problems": sum(done.values()),
        "by_dtype": dict(done),
        "failures": failures,
    }


def check_random(seed: int, transposed: bool, dtype: str, device: torch.device) -> str | None:
    """What is wrong with one random problem: `tests.cases.random_case` of that seed. None if nothing is."""
    case = random_case(seed, transposed)
    operands = case.operands(DTYPES[dtype], str(device))
    layout = ("all_zero_strides", *LAYOUTS)[seed % (1 + len(LAYOUTS))]
    gradient = hostile(forward(case, *operands).shape, DTYPES[dtype], layout, device=str(device))
    function = tritonconv.conv_transpose2d if transposed else tritonconv.conv2d
    with at_its_best(dtype):
        actual = step(partial(function, **case.arguments, implementation="triton"), operands, gradient)
    expected, scale = expected_step(case, operands, gradient), scales(case, operands, gradient)
    precision = "bfloat16 cut" if dtype == "bfloat16" and device.type == "cpu" else dtype
    for name, mine, theirs, of in zip(PARTS, actual, expected, scale, strict=False):
        found = errors(mine, theirs, of)
        if not all(error <= allowed for error, allowed in zip(found, TOLERANCES[precision], strict=True)):
            return f"{case}: {name} in {dtype} is off by {found[0]:.2e} (RMS), {found[1]:.2e} (maximum)"
    return None
