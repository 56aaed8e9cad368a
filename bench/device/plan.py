"""`bench device --plan`: what a call would do on a pretended GPU, in which time, and what it would leave."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from bench.device import estimates
from bench.device.call import scene_of, slices_of
from bench.device.pretended import Pretended
from bench.device.slices import NAMED, WHOLE, Slice
from bench.device.work import Planned
from bench.table import columns


def table(args: argparse.Namespace) -> str:
    """Return a table of the slices. What would be done is found out by a rehearsal."""
    machine, slices = Pretended(args.gpu), [NAMED[name] for name in args.slice]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        there = argparse.Namespace(**vars(args) | {"out": Path(folder)})
        before, _, after = units_of(there, machine), slices_of(there, machine), units_of(there, machine)
    header = ["slice", "what it does", "units", "current", "to do", "would take", "budget", "done", "remain"]
    rows = [row_of(*each) for each in zip(slices, before, after, strict=True)]
    seconds = args.seconds or (WHOLE if len(slices) > 1 else slices[0].whole)
    about = [
        f"What a call would do on an {args.gpu} in {seconds:g} seconds. All times are estimates, in seconds. They",
        "follow from committed times where there are any, and from guesses (bench/device/estimates.py).",
        "`would take` is for all that is to do, with the start of processes and compilation from a cold cache.",
        f"`done` and `remain` count units as a rehearsal does them, which ended after {machine.now():.0f} seconds.",
    ]
    return "\n".join([*about, "", columns(header, rows)])


def units_of(args: argparse.Namespace, machine: Pretended) -> list[Sequence[Planned]]:
    """Return the units of each slice as they are planned now."""
    scene = scene_of(args, machine, machine.environment())
    return [NAMED[name].every(scene) for name in args.slice]


def row_of(slice: Slice, before: Sequence[Planned], after: Sequence[Planned]) -> list[object]:
    """Return the row of a slice, from its units before and after the call."""
    todo, left = to_do(before), len(to_do(after))
    counts = [len(before), len(before) - len(todo), len(todo)]
    return [slice.name, slice.what, *counts, round(takes(slice, todo)), round(slice.whole), len(todo) - left, left]


def to_do(planned: Sequence[Planned]) -> list[Planned]:
    return [each for each in planned if each.missing]


def takes(slice: Slice, planned: Sequence[Planned]) -> float:
    """Return an estimate of the seconds that all these units of a slice take."""
    if not planned:
        return 0.0
    work = sum(each.missing * each.seconds for each in planned)
    return slice.processes * estimates.START + work + estimates.to_compile(sum(each.kernels for each in planned))
