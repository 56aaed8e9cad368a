"""The slice `correctness` of `bench device`: tests on this GPU that have no current result, then random problems.

`correctness.json` has these rows, by the field `what`:

    tests            One file of tests (`bench.device.tests`). Of a file that the time did not suffice for, `passed`
                     names the tests that passed, so that the next call goes on with the others.
    random problems  A few random problems of one dtype.
"""

import warnings
from collections.abc import Sequence

from bench import results
from bench.device import estimates, tests
from bench.device.current import Evidence
from bench.device.recorder import LATER
from bench.device.schedule import Pace, Record
from bench.device.work import Planned, Scene, Work
from bench.results import Row
from bench.run.contenders import DTYPES

FILE = "correctness.json"
# The share of the time that the tests may take; the rest is for random problems.
TESTS_SHARE = 0.75
# How many blocks of random problems there are, and how many problems a block has. They are of one dtype: two of Conv2d
# and two of ConvTranspose2d, each once with integers and once with other numbers.
BLOCKS, SEEDS = 8, 4
# How many rows that are wrong or failed are printed.
SHOWN = 5


def every(scene: Scene) -> list[Planned]:
    """Plan the files of tests, the quickest first, and then random problems."""
    found = [
        Planned(path, int(not tests.is_current(path, scene.evidence)), tests.seconds(path), unit=path)
        for path in tests.files()
    ]
    for block in range(BLOCKS):
        first = scene.options.seed + block * SEEDS
        seeds = range(first, first + SEEDS)
        missing = int(not is_current(seeds, scene.evidence))
        found.append(Planned(name_of(seeds), missing, SEEDS * estimates.RANDOM, unit=seeds))
    return found


def name_of(seeds: Sequence[int]) -> str:
    return f"random problems {seeds[0]} to {seeds[-1]}"


def dtype_of(seeds: Sequence[int]) -> str:
    return list(DTYPES)[seeds[0] // SEEDS % len(DTYPES)]


def is_current(seeds: Sequence[int], evidence: Evidence) -> bool:
    """Whether random problems were right with the kernels as they are now."""
    rows = [row for run in evidence.of_architecture("correctness") for row in run["rows"]]
    mine = [row for row in rows if row["what"] == "random problems" and row.get("seeds") == [seeds[0], seeds[-1]]]
    return any(row.get("kernels") == evidence.now["kernels"] and not row["failures"] for row in mine)


def run(work: Work) -> int:
    """Write `correctness.json`. Return the exit status: 1 if a test failed or a result was wrong."""
    record, todo = work.begun(FILE, part="correctness")
    begun = len(record.content["rows"])
    run_tests(work, record, [each for each in todo if isinstance(each.unit, str)])
    work.keep()
    stopped = run_problems(work, record, [each for each in todo if not isinstance(each.unit, str)])
    record.close(stopped)
    return told(record.content["rows"][begun:], record.content)


def run_tests(work: Work, record: Record, todo: Sequence[Planned]) -> None:
    """Add a row for each file of tests, as far as the time suffices."""
    paths = [each.name for each in todo]
    seconds = work.clock.left() * TESTS_SHARE
    if not paths or seconds < estimates.TESTS:
        return
    now, rows = work.scene.evidence.now, []
    for rows in work.machine.tests(paths, seconds, tests.passed(paths, work.scene.evidence)):
        rows = [row | tests.identity(row["file"], now) if row["file"] in paths else row for row in rows]
        record.show(rows)
    for row in rows:
        if row["status"] != "stopped" or row["passed"]:
            record.add(row["file"], [row], done=row["status"] != "stopped")


def run_problems(work: Work, record: Record, todo: Sequence[Planned]) -> str | None:
    """Add a row for each block of random problems while there is time. Return what lost the GPU, or None."""
    warnings.filterwarnings("ignore", "Using padding='same'")  # torch warns when it computes the expected result
    pace = Pace(work.clock)
    for each in todo:
        if not pace.fits(each.seconds):
            break
        with pace.unit(each.seconds):
            row = checked(work, each.unit)
        record.add(each.name, [row])
        if row["failures"] and work.machine.lost():
            return f"{each.name}: {row['failures'][-1]['what']}"
    return None


def checked(work: Work, seeds: Sequence[int]) -> Row:
    """Return the row of random problems. It ends at a problem that loses the GPU."""
    dtype = dtype_of(seeds)
    row: Row = {"what": "random problems", "seeds": [seeds[0], seeds[-1]], "dtype": dtype, "problems": 0}
    row |= {"kernels": work.scene.evidence.now["kernels"], "failures": []}
    for seed in seeds:
        failure = work.machine.wrong(seed, dtype)
        row["problems"] += 1
        if failure is not None:
            row["failures"].append(dict(seed=seed, dtype=dtype, what=failure[1][:1500], case=failure[0]))
            if work.machine.lost():
                break
    return row | {"status": "wrong" if row["failures"] else "ok"}


def told(rows: Sequence[Row], content: results.Results) -> int:
    """Print what these new rows show. Return the exit status."""
    ended = [row for row in rows if row["what"] == "tests" and row["status"] != "stopped"]
    problems = sum(row["problems"] for row in rows if row["what"] == "random problems")
    failures = [failure for row in rows for failure in row["failures"]]
    for each in failures[:SHOWN]:
        print(described(each))
    reason = content["stopped"] or "complete"
    print(f"correctness: {len(ended)} files of tests, {problems} random problems, {len(failures)} failures: {reason}")
    return int(bool(failures) or content["stopped"] not in (None, LATER))


def described(failure: Row) -> str:
    """Return the lines that describe a test that failed, or a random problem whose result was wrong."""
    if "test" in failure:
        return f"FAILED: {failure['test']}\n{failure['message']}"
    return f"WRONG: random problem {failure['seed']} in {failure['dtype']}: {failure['what']}\n{failure['case']}"
