"""A call of `bench device`: runs the slices one after another, each in processes of its own, and sums them up."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import results
from bench.device import estimates, summary
from bench.device.current import Evidence, read_all
from bench.device.machine import Machine
from bench.device.schedule import Clock, refuse_other
from bench.device.slices import NAMED, Slice, deadlines
from bench.device.work import Planned, Scene, Work
from bench.results import RESULTS, Results


@dataclass
class Done:
    """What became of a slice: its units before and after it, the seconds it took, and its exit status."""

    slice: Slice
    before: Sequence[Planned]
    after: Sequence[Planned]
    seconds: float
    status: int


def scene_of(args: argparse.Namespace, machine: Machine, now: dict[str, object]) -> Scene:
    """Return the scene as it is now, with what earlier processes have left in the folder."""
    committed = None if args.again else RESULTS
    return Scene(machine, Evidence.gathered(machine.gpu, now, args.out, machine.rehearsal, committed), args)


def call(args: argparse.Namespace, machine: Machine) -> int:
    """Run the slices, then print and write the summary. Return the largest exit status of the slices."""
    start, done = machine.began(), slices_of(args, machine)
    text = summary.text(args, machine, machine.environment(), done, machine.now() - start)
    results.write(args.out / "summary.md", text)
    print(text)
    return max(each.status for each in done)


def slices_of(args: argparse.Namespace, machine: Machine) -> list[Done]:
    """Run the slices one after another. Return what became of each."""
    start, now = machine.began(), machine.environment()
    args.out.mkdir(parents=True, exist_ok=True)
    refuse_others(args, machine, now)
    machine.begin()
    slices = [NAMED[name] for name in args.slice]
    ends = deadlines(slices, args.seconds)
    return [run(each, args, machine, now, start + end) for each, end in zip(slices, ends, strict=True)]


def refuse_others(args: argparse.Namespace, machine: Machine, now: dict[str, object]) -> None:
    """Raise ValueError if the folder has records of other code, of another GPU or of another kind."""
    about: Results = {"environment": now} | ({"rehearsal": machine.rehearsal} if machine.rehearsal else {})
    for record in read_all(args.out):
        refuse_other(args.out, record, about)


def run(each: Slice, args: argparse.Namespace, machine: Machine, now: dict[str, object], until: float) -> Done:
    """Start the processes of a slice that have something to do, one after another. Return what became of it."""
    begun, status, compiled = machine.now(), 0, set[str]()
    before = after = each.every(scene_of(args, machine, now))
    for number in range(1, each.processes + 1):
        todo = [unit for unit in after if unit.missing == each.processes - number + 1]
        if not todo or until - machine.now() < least(each, number, todo):
            continue
        own = ["--slice", each.name, "--process", str(number), "--until", repr(until)]
        own += ["--compiled"] * all(unit.name in compiled for unit in todo)
        compiled |= {unit.name for unit in todo}
        status = max(status, machine.start([*arguments(args), *own], until))
        after = each.every(scene_of(args, machine, now))
    return Done(each, before, after, machine.now() - begun, status)


def least(each: Slice, number: int, todo: Sequence[Planned]) -> float:
    """Return the seconds that process `number` of a slice and those after it need for one of these units."""
    compiling = estimates.WORKERS if number == 1 and all(unit.kernels for unit in todo) else 0.0
    quickest = min(unit.seconds for unit in todo)
    return (each.processes - number + 1) * (estimates.START + quickest) + compiling


def arguments(args: argparse.Namespace) -> list[str]:
    """Return the options that the processes of slices get, too."""
    found = ["--out", str(args.out.resolve()), "--rows", args.rows, "--seed", str(args.seed)]
    return found + ["--again"] * args.again


def process(args: argparse.Namespace, machine: Machine, keep: Callable[[], None]) -> int:
    """Do the work of one process of one slice. Return the exit status."""
    (name,) = args.slice
    scene = scene_of(args, machine, machine.environment())
    clock = Clock(args.until - machine.now(), machine.now)
    return NAMED[name].run(Work(scene, clock, keep, args.process, NAMED[name].every(scene), args.compiled))
