"""The slice `switches` of `bench device`: which switches of `tritonconv/gpu.py` are right and fast on this GPU.

A switch is a field of `gpu.Architecture` that is off until a GPU has shown that it is right:

    host_descriptors   The host makes TMA descriptors.
    dependent_launch   wgrad's second kernel is a programmatic dependent launch. sm_90 and newer have them.

The record has these rows, by the field `what`:

    exactness   One small problem, computed with `host_descriptors` off and on (`bench.device.exactness`).
    tests       The outcomes of a file of tests: of CUDA graphs, and of dependent launches.
    times       One operator of a layer with the switch off or on. Both are timed side by side. The row has the medians
                of `device`, `host` and `wall`, as in `bench.run.measure`.

The `status` of a row is "ok", "wrong", "failed", "skipped" or "stopped". `reason` says why it is not "ok".

A record of a GPU is evidence. Committed as bench/results/<gpu>-switches.json, it decides which switches are on for the
GPU's architecture (`bench.device.evidence`). Several records of an architecture decide together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from bench import results
from bench.device import estimates, exactness, exactness_units, switch_times, tests
from bench.device.current import Evidence
from bench.device.evidence import DEPENDENT, SWITCHES, confirmed
from bench.device.recorder import LATER
from bench.device.schedule import Pace, Record
from bench.device.work import Planned, Scene, Work
from bench.results import Row, in_short, kernels_of
from tests.support.blocks import IN_INTERPRETER, ON_GPU
from tests.support.interpreter import interpreting
from tritonconv import runtime
from tritonconv.gpu import Architecture, Gpu
from tritonconv.launch import kept_descriptors

FILE = "switches.json"
# How much longer than expected a file of tests may take.
LONGER = 2.0
# The files of tests, by the names of their units. If a file is missing, its row says so.
GRAPHS = "tests/api/test_cuda_graphs.py"
FILES = {"dependent launch": DEPENDENT, "cuda graphs": GRAPHS}
# Seconds of each file of tests in the interpreter: it shows that the tests start, and most of them need a GPU.
REHEARSED_TESTS = 3.0
# How many units' kernels are compiled at once. Compilation may take longer than expected, and nothing stops it.
AT_ONCE = 64
# How many rows that are wrong or failed are printed. All of them are in the record.
SHOWN = 5


def every(scene: Scene) -> list[Planned]:
    """Plan the units of exactness, the files of tests, and the operators that are timed both ways."""
    rows = known(scene.evidence)
    found = []
    for unit in units_here(scene.machine.gpu):
        current = any(is_exact(row, unit.name, scene) for row in rows)
        kernels = 0 if unit.by_programs else 2 * len(unit.operators)
        found.append(Planned(unit.name, int(not current), estimates.EXACTNESS, kernels, unit))
    for name, path in FILES.items():
        current = tests.is_current(path, scene.evidence)
        found.append(Planned(name, int(not current), tests.seconds(path), unit=path))
    for switch in SWITCHES:
        for layer, operator in switch_times.layers(switch, scene.machine.device):
            name = f"{switch} {layer.name} {operator}"
            current = any(is_timed(row, name, scene) for row in rows)
            found.append(Planned(name, int(not current), estimates.BOTH_WAYS, 2, (layer, operator)))
    return found


def known(evidence: Evidence) -> list[Row]:
    """Return the rows of this architecture."""
    return [row for run in evidence.of_architecture("switches") for row in run["rows"]]


def is_exact(row: Row, name: str, scene: Scene) -> bool:
    """Whether a row shows that a unit of exactness is right, with the kernels and descriptors as they are now."""
    right = row["what"] == "exactness" and row["unit"] == name and row["status"] in ("ok", "skipped")
    return right and is_now(row, scene) and row.get("descriptors") in (None, descriptors(scene.machine.gpu)[name])


def is_timed(row: Row, name: str, scene: Scene) -> bool:
    """Whether a row has a time of an operator with a switch on, or says that the switch makes no difference."""
    return row["what"] == "times" and row["unit"] == name and row["status"] in ("ok", "skipped") and is_now(row, scene)


def is_now(row: Row, scene: Scene) -> bool:
    """Whether a row was made with the kernels as they are now."""
    return bool(row.get("kernels", {}).items() <= scene.evidence.now["kernels"].items())


@cache
def descriptors(gpu: Gpu) -> dict[str, str]:
    """Return a hash of what the host describes for each unit of exactness on this GPU."""
    on = gpu.switched(**{exactness.SWITCH: True})
    return {unit.name: exactness.described(unit.plans(on)) for unit in units_here(gpu)}


@cache
def units_here(gpu: Gpu) -> list[exactness_units.Unit]:
    """Return the units of `exactness`: all of them on a GPU, a few in the interpreter."""
    if gpu.architecture.vendor is None:
        return exactness_units.rehearsed(exactness_units.units(IN_INTERPRETER))
    return exactness_units.units(ON_GPU)


def run(work: Work) -> int:
    """Write `switches.json`. Return the exit status: 1 if a result was wrong, a test failed, or the GPU was lost."""
    record, todo = work.begun(FILE, part="switches", architecture=work.machine.gpu.architecture.name)
    begun = len(record.content["rows"])
    # The quickest first.
    parts: dict[str, Callable[[], None]] = {
        "tests": lambda: run_tests(work, record, todo),
        "dependent_launch": lambda: time_layers(work, record, todo, "dependent_launch"),
        "exactness": lambda: check_exactness(work, record, todo),
        "host_descriptors": lambda: time_layers(work, record, todo, "host_descriptors"),
    }
    stopped = None
    for name, part in parts.items():
        try:
            with interpreting():
                part()
            work.keep()
        except Exception as error:  # the others go on, unless the GPU is lost
            record.content["rows"].append({"what": "work", "unit": name, "status": "failed", "reason": in_short(error)})
            record.save()
            if work.machine.lost():
                stopped = f"{name}: {in_short(error)}"
                break
    record.close(stopped)
    return told(record.content, record.content["rows"][begun:])


def told(content: results.Results, new: Sequence[Row]) -> int:
    """Print what is wrong in the new rows, and what is confirmed. Return the exit status."""
    bad = [row for row in new if row["status"] in ("wrong", "failed")]
    for row in bad[:SHOWN]:
        print(f"{row['status'].upper()}: {name_of(row)}: {row['reason']}")
        for failure in row.get("failures", ())[:SHOWN]:
            print(f"FAILED: {failure['test']}\n{failure['message']}")
    counts = {status: sum(row["status"] == status for row in new) for status in ("ok", "skipped")}
    print(
        f"switches: {counts['ok']} ok, {counts['skipped']} skipped, {len(bad)} wrong or failed, "
        f"{len(content['remaining'])} not run: {content['stopped'] or 'complete'}"
    )
    print(f"switches: confirmed for {content['architecture']}: {', '.join(sorted(confirmed(content))) or 'none'}")
    return int(bool(bad) or content["stopped"] not in (None, LATER))


def name_of(row: Row) -> str:
    """Return what a row is about, in a few words."""
    return str(row["unit"]) + (f", {row['switch']} {'on' if row['on'] else 'off'}" if "on" in row else "")


def why_not(switch: str, architecture: Architecture) -> str | None:
    """Return why a switch can not be on for this architecture. None if it can."""
    if switch not in {each.name for each in fields(architecture)}:
        return f"architectures have no {switch}"
    if switch == "host_descriptors":
        return None if architecture.tma else f"{architecture} has no TMA"
    if architecture.vendor is None:
        return "the interpreter runs one kernel after another"
    capability = architecture.capability
    return None if capability is not None and capability >= 90 else f"{architecture} has no dependent launches"


def check_exactness(work: Work, record: Record, todo: Sequence[Planned]) -> None:
    """Add a row for each unit of exactness, as long as there is time. Raise an error only if the GPU is lost."""
    gpu, kernels = work.machine.gpu, work.scene.evidence.now["kernels"]
    mine = [each for each in todo if isinstance(each.unit, exactness_units.Unit)]
    reason = why_not(exactness.SWITCH, gpu.architecture)
    if reason is not None:
        for each in mine:
            record.add(each.name, [{"what": "exactness", "unit": each.name, "status": "skipped", "reason": reason}])
        return
    ways = [gpu.switched(host_descriptors=on) for on in (False, True)]
    begun: set[tuple[Any, ...]] = set()
    for each in compiled(work, mine, lambda unit: [p for way in ways for p in unit.plans(way).values()]):
        unit = each.unit
        # The first unit of a kind has more addresses than descriptors are kept for. The interpreter keeps none.
        new = not unit.by_programs and (unit.operators, unit.dtype) not in begun
        many = 0 if runtime.interpreted() else kept_descriptors.KEPT_DESCRIPTORS + 2 if new else 2
        begun |= {(unit.operators, unit.dtype)} if new else set()
        row: Row = {"what": "exactness", "switch": exactness.SWITCH, "unit": unit.name, "dtype": unit.dtype}
        before = work.clock.left()
        try:
            row = exactness.about(unit, gpu, kernels)
            row = work.machine.check(unit, row, many) | {"seconds": round(before - work.clock.left(), 2)}
        except Exception as error:
            row |= {"status": "failed", "reason": in_short(error)}
            record.add(unit.name, [row])
            if work.machine.lost():
                raise
        else:
            record.add(unit.name, [row])


def compiled(work: Work, todo: Sequence[Planned], plans: Callable[[Any], list[Any]]) -> Iterator[Planned]:
    """Yield units while there is time for one more. The kernels of the next few are compiled before them."""
    pace, rest = Pace(work.clock), list(todo)
    cost = estimates.KERNEL / estimates.PROCESSES
    while some := pace.fitting(rest[:AT_ONCE], lambda each: each.seconds + each.kernels * cost, estimates.WORKERS):
        del rest[: len(some)]
        work.machine.compile(plan for each in some if each.kernels for plan in plans(each.unit))
        for each in some:
            if not pace.fits(each.seconds):
                return
            with pace.unit(each.seconds):
                yield each


def run_tests(work: Work, record: Record, todo: Sequence[Planned]) -> None:
    """Add a row for each planned file of tests, if there is time for them."""
    evidence, mine = work.scene.evidence, {each.unit: each.name for each in todo if each.name in FILES}
    for path in [path for path in mine if not (results.ROOT / path).exists()]:
        missing = {"status": "skipped", "reason": f"there is no {path}"}
        record.add(mine[path], [{"what": "tests", "unit": mine.pop(path), "file": path} | missing])
    seconds = min(work.clock.left(), estimates.TESTS + LONGER * sum(map(tests.seconds, mine)))
    if work.machine.gpu.architecture.vendor is None:
        seconds = REHEARSED_TESTS
    elif seconds < estimates.TESTS:
        return
    rows: list[Row] = []
    for rows in work.machine.tests([*mine], seconds, tests.passed([*mine], evidence)) if mine else ():
        rows = [
            {"unit": mine.get(row["file"], "tests")} | row | tests.identity(row["file"], evidence.now) for row in rows
        ]
        record.show(rows)
    for row in rows:
        if row["status"] != "stopped" or row["passed"]:
            record.add(row["unit"], [row], done=row["status"] != "stopped")


def time_layers(work: Work, record: Record, todo: Sequence[Planned], switch: str) -> None:
    """Add two rows for each operator that is timed, with the switch off and on, as long as there is time.

    Raise an error only if the GPU is lost.
    """
    gpu, kernels = work.machine.gpu, work.scene.evidence.now["kernels"]
    reason = why_not(switch, gpu.architecture)
    mine = [each for each in todo if each.name.startswith(f"{switch} ")]

    def plans(unit: Any) -> list[Any]:
        pair = [] if reason else switch_times.both_plans(switch, gpu, *unit)
        return [*pair] if pair and switch_times.differ(*pair) else []

    for each in compiled(work, mine, plans):
        layer, operator = each.unit
        about: Row = {"what": "times", "unit": each.name, "switch": switch, "layer": layer.name, "pass": operator}
        about |= {"dtype": switch_times.DTYPE, "kernels": kernels_of([operator], kernels)}
        try:
            skipped: list[Row] = [{"status": "skipped", "reason": reason}]
            rows = skipped if reason else work.machine.time_both_ways(switch, layer, operator)
        except Exception as error:
            record.add(each.name, [about | {"status": "failed", "reason": in_short(error)}])
            if work.machine.lost():
                raise
        else:
            record.add(each.name, [about | row for row in rows])
