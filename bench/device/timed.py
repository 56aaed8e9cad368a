"""Does the timed slices of `bench device`: times units in one of two processes, and writes them to `times.json`."""

import copy
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from bench import results
from bench.device import estimates
from bench.device.contests import ON_GPU, Unit
from bench.device.current import OURS, PROCESSES
from bench.device.schedule import Pace, Record
from bench.device.work import Planned, Work
from bench.run.contenders import operators_of
from bench.run.measure import untimed
from bench.run.session import Session
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan

FILE = "times.json"
# How many units are compiled at once. Compilation may take longer than expected, and nothing stops it.
AT_ONCE = 24


def run(name: str, work: Work) -> int:
    """Time units of the slice `name` while there is time. Return the exit status: 1 if something is wrong.

    The first process begins only what the second can measure too. The second measures what one process has measured.
    """
    todo = [each for each in work.todo if each.missing == PROCESSES - work.process + 1]
    session, record = begun(work)
    record.plan(f"{name}: {each.name}" for each in work.todo if each.missing)
    times = PROCESSES - work.process + 1
    pace = Pace(work.clock, times, reserve=(times - 1) * estimates.START)
    stopped, rows = None, []
    for each in compiled_in_time(work, session, todo, pace):
        record.show(failed(session, each.unit, "the process ended within it", work.process))
        try:
            with pace.unit(each.seconds):
                measured = measure(session, each.unit)
        except Exception as error:  # the GPU is lost
            stopped = f"{each.name}: {results.in_short(error)}"
            rows += failed(session, each.unit, stopped, work.process)
            record.add(f"{name}: {each.name}", rows[-len(each.unit.contenders) :], done=False)
            break
        rows += [row | {"process": work.process} for row in measured]
        record.add(f"{name}: {each.name}", rows[-len(measured) :], done=work.process == PROCESSES)
    if stopped:
        record.content["lost"] = [*record.content.get("lost", []), f"{name}: {stopped}"]
    record.close(stopped)
    bad = [row for row in rows if row["status"] in ("wrong", "failed")]
    print(f"{name}: process {work.process}: {len(rows)} rows, {len(bad)} wrong or failed, {stopped or 'in time'}")
    return int(bool(bad or stopped))


def failed(session: Session, unit: Unit, reason: str, process: int) -> list[results.Row]:
    """Return the rows of a unit that did not end. Because of them, the next call does this unit last."""
    commit = session.environment["commit"]
    outcome = {"commit": commit, "status": "failed", "reason": reason}
    rows = untimed(session.as_measured(unit.layer), unit.of, unit.dtype, unit.contenders, **outcome)
    return [row | {"process": process} for row in rows]


def begun(work: Work) -> tuple[Session, Record]:
    """Return a session and the record, which has the ceilings that the first process measured for all of them."""
    path = work.file(FILE)
    known = results.read(path) if path.exists() else {}
    dtypes = ON_GPU if work.machine.device.type == "cuda" else ("float32",)
    session = work.machine.session((), dtypes, known)
    session.budget /= PROCESSES
    about = session.record()
    if work.machine.rehearsal:
        about["rehearsal"] = work.machine.rehearsal
    record = Record.continued(path, part="times", **about)
    for field in ("ceilings", "ceilings_from", "ceiling_clocks"):
        record.content[field] = about.get(field, {})
    return session, record


def compiled_in_time(work: Work, session: Session, todo: Sequence[Planned], pace: Pace) -> Iterator[Planned]:
    """Yield units while there is time for one more. The kernels of the next few are compiled before them.

    The processes after this one find compiled kernels in Triton's cache.
    """
    rest = list(todo)
    # What happens in this process only, as a share of what each of the processes takes.
    own = 0.0 if work.compiled else 1 / pace.times
    while rest:
        start = estimates.WORKERS if any(each.kernels for each in rest[:AT_ONCE]) else 0.0
        some = pace.fitting(rest[:AT_ONCE], lambda each: each.seconds + own * cost(each), own * start)
        if not some:
            return
        del rest[: len(some)]
        if not work.compiled:
            work.machine.compile(plans(session, [each.unit for each in some], work.machine.gpu))
            work.keep()
        for each in some:
            if not pace.fits(each.seconds):
                return
            yield each


def cost(each: Planned) -> float:
    """Return the seconds that compiling the kernels of a unit takes, as one of many."""
    return each.kernels * estimates.KERNEL / estimates.PROCESSES


def plans(session: Session, units: Sequence[Unit], gpu: Gpu) -> Iterator[Plan]:
    """Yield the plans that the units launch. The pass `forward` has a bias."""
    from bench.lowering.offline import plan_for

    for unit in units:
        layer = session.as_measured(unit.layer)
        for operator, name in product(operators_of(unit.of, layer), unit.contenders):
            if name in OURS:
                bias, channels_last = unit.of == "forward", name == "triton"
                yield plan_for(operator, unit.dtype, layer.geometry, gpu, bias=bias, channels_last=channels_last)


def measure(session: Session, unit: Unit) -> list[dict[str, Any]]:
    """Return the rows of a unit. Only its own contenders are measured."""
    own = copy.copy(session)  # with the same operands and ceilings
    own.contenders, own._rows = unit.contenders, {}
    try:
        return own.measure(unit.layer, unit.of, unit.dtype)
    finally:
        session._problem = own._problem
