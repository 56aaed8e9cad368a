"""The part `switches` of `bench device`: which switches of `tritonconv/gpu.py` are right and fast on this GPU.

A switch is a field of `gpu.Architecture` that is off until a GPU has shown that it is right:

    host_descriptors   The host makes TMA descriptors.
    dependent_launch   wgrad's second kernel is a programmatic dependent launch. sm_90 and newer have them.

The record has these rows, by the field `what`:

    exactness   One small problem, computed with `host_descriptors` off and on (`bench.device.exactness`).
    tests       The outcomes of a file of tests: of CUDA graphs, and of dependent launches.
    times       One operator of a layer with the switch off or on. Both are timed side by side. The row has the medians
                of `device`, `host` and `wall`, as in `bench.run.measure`.

The `status` of a row is "ok", "wrong", "failed" or "skipped". `reason` says why it is not "ok".

A record of a GPU is evidence. Committed as bench/results/<gpu>-switches.json, it decides which switches are on for the
GPU's architecture (`bench.device.evidence`).
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from bench import results
from bench.device import correctness, exactness, exactness_units
from bench.device.evidence import DEPENDENT, SWITCHES, confirmed
from bench.device.schedule import Clock, Record, in_time
from bench.device.ways import Way, forced, forget_failures, same_bits, taking_turns
from bench.layers import Layer, select
from bench.results import Row, in_short, kernels_of, lost
from bench.run import check
from bench.run.contenders import Problem, at_its_best
from bench.run.timing import Times, side_by_side, spread
from tests.support.blocks import IN_INTERPRETER, ON_GPU
from tests.support.interpreter import interpreting
from tritonconv import runtime
from tritonconv.geometry import OPERATORS, Operator
from tritonconv.gpu import Architecture, Gpu
from tritonconv.launch import failures, kept_descriptors
from tritonconv.launch.plan import Plan

# The seconds of the whole part.
LIMIT = 170.0
# How the seconds are shared out. What one leaves over is for those after it.
SHARES = {"exactness": 0.42, "cuda graphs": 0.17, "host_descriptors": 0.27, "dependent_launch": 0.14}
# The tests of CUDA graphs. DEPENDENT has those of dependent launches. If a file is missing, its row says so.
GRAPHS = "tests/api/test_cuda_graphs.py"
# The layers that are timed, and their operators. All are in bfloat16.
TIMED: dict[str, tuple[str, ...]] = {
    "host_descriptors": (
        *("rn50_c3_3x3", "rn50_c4_3x3", "rn50_c5_3x3", "rn50_c4_1x1_reduce", "rn50_c3_3x3_s2", "unet_bottleneck"),
        *("sd15_unet_1280_at_16", "dcgan_up_512_to_256_4x4_s2"),
    ),
    "dependent_launch": ("rn50_c2_3x3", "rn50_c3_3x3", "rn50_c4_3x3"),
}
TIMED_OPERATORS: dict[str, tuple[Operator, ...]] = {"host_descriptors": OPERATORS, "dependent_launch": ("wgrad",)}
DTYPE = "bfloat16"
# Seconds that all runs of one call may take (`bench.run.timing`).
BUDGET = 0.1
# Seconds of each file of tests in a rehearsal: it shows that the tests start, and most of them need a GPU.
REHEARSED_TESTS = 3.0
TESTS_STOPPED = "the time of the tests was up"
# How many rows that are wrong or failed are printed. All of them are in the record.
SHOWN = 20


def run(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """Write `switches.json`. Return the exit status: 1 if a result was wrong, a test failed, or the GPU was lost."""
    environment = results.environment(device)
    about: dict[str, Any] = {"part": "switches", "architecture": runtime.gpu_of(device).architecture.name}
    about |= {"environment": environment, "ceilings": {}}
    if device.type == "cpu":
        about["rehearsal"] = "in Triton's interpreter"
    record = Record(args.out / "switches.json", **about)
    kernels: dict[str, str] = environment["kernels"]
    checked = units_here()
    timed = {switch: layers(switch, device) for switch in SWITCHES}
    named = {switch: [f"{switch} {layer.name} {operator}" for layer, operator in timed[switch]] for switch in SWITCHES}
    record.plan(
        [each.name for each in checked]
        + ["cuda graphs", *named["host_descriptors"], "dependent launch", *named["dependent_launch"]]
    )

    def tests(name: str, path: str, clock: Clock) -> None:
        rows: Iterable[Row] = outcomes_of(path, clock.left() if device.type == "cuda" else REHEARSED_TESTS)
        last: list[Row] = []
        for row in rows:
            last = [{"what": "tests", "unit": name} | row]
            record.show(last)
        record.add(name, last)

    def exact(clock: Clock) -> None:
        check_exactness(record, checked, device, kernels, clock)
        keep()

    def times(switch: str, clock: Clock) -> None:
        time_layers(record, switch, timed[switch], device, kernels, clock)
        keep()

    def dependent(clock: Clock) -> None:
        tests("dependent launch", DEPENDENT, Clock(clock.left() * 0.6))
        times("dependent_launch", clock)

    work: dict[str, Callable[[Clock], None]] = {
        "exactness": exact,
        "cuda graphs": lambda clock: tests("cuda graphs", GRAPHS, clock),
        "host_descriptors": lambda clock: times("host_descriptors", clock),
        "dependent_launch": dependent,
    }
    stopped: str | None = None
    rest = 1.0
    for name, share in SHARES.items():
        own = Clock(clock.left() * share / rest)
        rest -= share
        try:
            with interpreting():
                work[name](own)
        except Exception as error:  # the others go on, unless the GPU is lost
            record.content["rows"].append({"what": "work", "unit": name, "status": "failed", "reason": in_short(error)})
            record.save()
            if lost(device):
                stopped = f"{name}: {in_short(error)}"
                break
    if stopped is None and any(row.get("reason") == TESTS_STOPPED for row in record.content["rows"]):
        stopped = TESTS_STOPPED
    record.close(stopped)
    return told(record)


def told(record: Record) -> int:
    """Print what is wrong and what is confirmed. Return the exit status."""
    content = record.content
    bad = [row for row in content["rows"] if row["status"] in ("wrong", "failed")]
    for row in bad[:SHOWN]:
        print(f"{row['status'].upper()}: {name_of(row)}: {row['reason']}")
        for failure in row.get("failures", ())[:SHOWN]:
            print(f"FAILED: {failure['test']}\n{failure['message']}")
    counts = {status: sum(row["status"] == status for row in content["rows"]) for status in ("ok", "skipped")}
    print(
        f"switches: {counts['ok']} ok, {counts['skipped']} skipped, {len(bad)} wrong or failed, "
        f"{len(content['remaining'])} not run: {content['stopped'] or 'complete'}"
    )
    print(f"switches: confirmed for {content['architecture']}: {', '.join(sorted(confirmed(content))) or 'none'}")
    return int(bool(bad) or content["stopped"] not in (None, "the time was up", TESTS_STOPPED))


def name_of(row: Row) -> str:
    """Return what a row is about, in a few words."""
    return str(row["unit"]) + (f", {row['switch']} {'on' if row['on'] else 'off'}" if "on" in row else "")


def why_not(switch: str, architecture: Architecture) -> str | None:
    """Return why a switch can not be on for this architecture. None if it can."""
    if switch not in {each.name for each in fields(architecture)}:
        return f"architectures have no {switch}"
    if switch == "host_descriptors":
        return None if architecture.tma else f"{architecture} has no TMA"
    if runtime.interpreted():
        return "the interpreter runs one kernel after another"
    capability = architecture.capability
    return None if capability is not None and capability >= 90 else f"{architecture} has no dependent launches"


def units_here() -> list[exactness_units.Unit]:
    """Return the units of `exactness`: all of them on a GPU, a few in the interpreter."""
    if runtime.interpreted():
        return exactness_units.rehearsed(exactness_units.units(IN_INTERPRETER))
    return exactness_units.units(ON_GPU)


def check_exactness(
    record: Record, units: Sequence[exactness_units.Unit], device: torch.device, kernels: dict[str, str], clock: Clock
) -> None:
    """Add a row for each unit, as long as there is time. Raise an error only if the GPU is lost."""
    gpu = runtime.gpu_of(device)
    reason = why_not(exactness.SWITCH, gpu.architecture)
    if reason is not None:
        for unit in units:
            record.add(unit.name, [{"what": "exactness", "unit": unit.name, "status": "skipped", "reason": reason}])
        return
    if device.type == "cuda":
        from bench.lowering.offline import precompile

        ways = [gpu.switched(host_descriptors=on) for on in (False, True)]
        plans = (plan for unit in units if not unit.by_programs for way in ways for plan in unit.plans(way).values())
        print(f"switches: {precompile(plans, device)} kernels compiled, {clock.left():.0f} seconds left", flush=True)
    begun: set[tuple[Any, ...]] = set()
    for unit in in_time(units, clock):
        # The first unit of a kind has more addresses than descriptors are kept for. The interpreter keeps none.
        new = not unit.by_programs and (unit.operators, unit.dtype) not in begun
        many = 0 if runtime.interpreted() else kept_descriptors.KEPT_DESCRIPTORS + 2 if new else 2
        begun |= {(unit.operators, unit.dtype)} if new else set()
        row: Row = {"what": "exactness", "switch": exactness.SWITCH, "unit": unit.name, "dtype": unit.dtype}
        before = clock.left()
        try:
            row = exactness.about(unit, gpu, kernels)
            row = exactness.check(unit, device, row, many) | {"seconds": round(before - clock.left(), 2)}
        except Exception as error:
            row |= {"status": "failed", "reason": in_short(error)}
            record.add(unit.name, [row])
            if lost(device):
                raise
        else:
            record.add(unit.name, [row])


def outcomes_of(path: str, seconds: float) -> Iterator[Row]:
    """Run the tests in a file that are for a GPU, and yield the row of their outcomes so far. The last row is final."""
    if not (results.ROOT / path).exists():
        yield {"file": path, "status": "skipped", "reason": f"there is no {path}"}
        return
    for row in correctness.run_tests(seconds, [path]):
        yield {"file": path} | row | outcome(row)


def outcome(tests: Row) -> Row:
    """Return the status of tests with these outcomes, and the reason if it is not "ok"."""
    if tests["failures"]:
        names = ", ".join(failure["test"] for failure in tests["failures"])
        return {"status": "failed", "reason": f"these tests failed: {names}"}
    if not tests["finished"]:
        return {"status": "skipped", "reason": TESTS_STOPPED}
    if not tests["outcomes"].get("passed"):
        return {"status": "skipped", "reason": f"no test ran: {', '.join(tests['skipped']) or 'there is none'}"}
    return {"status": "ok"}


def layers(switch: str, device: torch.device) -> list[tuple[Layer, Operator]]:
    """Return the layers and operators that are timed with the switch off and on. Without a GPU it is one small one."""
    every = [(layer, operator) for operator in TIMED_OPERATORS[switch] for layer in select(TIMED[switch])]
    if device.type == "cuda":
        return every
    layer, operator = every[0]
    small = replace(layer.case, batch=1, channels=(16, 16), size=(4, 4))
    return [(replace(layer, case=small), operator)]


def time_layers(
    record: Record,
    switch: str,
    units: Sequence[tuple[Layer, Operator]],
    device: torch.device,
    kernels: dict[str, str],
    clock: Clock,
) -> None:
    """Add two rows for each unit, with the switch off and on, as long as there is time.

    Raise an error only if the GPU is lost.
    """
    gpu = runtime.gpu_of(device)
    reason = why_not(switch, gpu.architecture)
    if reason is None and device.type == "cuda":
        from bench.lowering.offline import precompile

        plans = [both_plans(switch, gpu, layer, operator) for layer, operator in units]
        affected = [plan for pair in plans if differ(*pair) for plan in pair]
        print(f"switches: {precompile(affected, device)} kernels compiled, {clock.left():.0f} seconds left", flush=True)
    for layer, operator in in_time(units, clock, reserve=1.0):
        name = f"{switch} {layer.name} {operator}"
        about: Row = {"what": "times", "unit": name, "switch": switch, "layer": layer.name, "pass": operator}
        about |= {"dtype": DTYPE, "kernels": kernels_of([operator], kernels)}
        try:
            if reason is None:
                rows = timed(switch, gpu, layer, operator, device)
            else:
                rows = [{"status": "skipped", "reason": reason}]
        except Exception as error:
            rows = [{"status": "failed", "reason": in_short(error)}]
            record.add(name, [about | row for row in rows])
            if lost(device):
                raise
        else:
            record.add(name, [about | row for row in rows])


def both_plans(switch: str, gpu: Gpu, layer: Layer, operator: Operator) -> tuple[Plan, Plan]:
    """Return the plans of an operator with the switch off and on, for tensors without data."""
    from bench.lowering.offline import plan_for

    off, on = (gpu.switched(**{switch: position}) for position in (False, True))
    first = plan_for(operator, DTYPE, layer.geometry, off)
    # `pick` has a tile for the interpreter as it is, and would choose one for a GPU with the switch on.
    tile = first.tile if runtime.interpreted() else None
    return first, plan_for(operator, DTYPE, layer.geometry, on, tile)


def differ(off: Plan, on: Plan) -> bool:
    """Whether two plans start different kernels."""
    return [each.variant for each in off.launches] != [each.variant for each in on.launches]


def timed(switch: str, gpu: Gpu, layer: Layer, operator: Operator, device: torch.device) -> list[Row]:
    """Return the rows of an operator with the switch off and on, or one row if the switch makes no difference here.

    Both results are compared with samples in float64, and, if both have the same tile, with each other bit by bit.
    """
    plans = both_plans(switch, gpu, layer, operator)
    if not differ(*plans):
        return [{"status": "skipped", "tile": str(plans[0].tile), "reason": f"{switch} makes no difference here"}]
    rows: dict[bool, Row] = {
        on: {"on": on, "tile": str(plan.tile)} for on, plan in zip((False, True), plans, strict=True)
    }
    tiles = {operator: plans[0].tile} if runtime.interpreted() else {}
    problem = Problem.draw(layer, DTYPE, device)
    with at_its_best(DTYPE), taking_turns(), forced(tiles):
        call = problem.call(operator, implementation="triton")
        forget_failures()
        ways = {on: Way(device, **{switch: on}) for on in rows}
        computations = {on: way.computation(call) for on, way in ways.items()}
        found = {on: computation() for on, computation in computations.items()}
        if failures.any_happened():
            raise RuntimeError(f"this failed and was avoided: {'; '.join(failures._reasons.values())}")
        expected = check.samples(operator, problem)
        for on, row in rows.items():
            row |= right(operator, problem, found[on], expected)
        if rows[False]["tile"] == rows[True]["tile"] and not same_bits(found[False], found[True]):
            rows[True] |= {"status": "wrong", "reason": "other bits than with the switch off"}
        del found
        if all(row["status"] == "ok" for row in rows.values()):
            times = side_by_side(computations, device, BUDGET if device.type == "cuda" else BUDGET / 100)
            for on, each in times.items():
                # Those of the last timed run, on a GPU of the last replay.
                rows[on] |= right(operator, problem, each.results, expected) | medians(each)
    return list(rows.values())


def right(operator: Operator, problem: Problem, found: Sequence[torch.Tensor], expected: list[check.Sample]) -> Row:
    """Return the status of results, with the errors of those that are right."""
    try:
        rms, most = check.assert_right(operator, problem, found, expected)
    except check.WrongResult as error:
        return {"status": "wrong", "reason": in_short(error)}
    return {"status": "ok", "error_rms": rms, "error_max": most}


def medians(times: Times) -> Row:
    """Return the times of a row, each with its median and spread. On a CPU, only `wall` has any."""
    return {
        "how": times.how,
        "device": spread(times.device) if times.device else None,
        "host": spread(times.host) if times.host else None,
        "wall": spread(times.wall),
    }
