"""`bench device --plan`: what a call would do on a pretended GPU, in which time, and what it would leave."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from bench.device import estimates
from bench.device.call import Done, slices_of
from bench.device.pretended import Pretended
from bench.device.slices import WHOLE
from bench.device.work import Planned
from bench.table import columns


def table(args: argparse.Namespace) -> str:
    """Return a table of the slices. What would be done is found out by a rehearsal."""
    machine = Pretended(args.gpu)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        # What is in --out counts as if the GPU had made it.
        there = argparse.Namespace(**vars(args) | {"out": Path(folder)})
        done = slices_of(there, machine)
    header = ["slice", "what it does", "units", "current", "to do", "would take", "budget", "done", "remain"]
    rows = [row_of(each) for each in done]
    seconds = args.seconds or (WHOLE if len(done) > 1 else done[0].slice.whole)
    about = [
        f"What a call would do on an {args.gpu} in {seconds:g} seconds. All times are estimates, in seconds. They",
        "follow from committed times where there are any, and from guesses (bench/device/estimates.py).",
        "`would take` is for all that is to do, with the start of processes and compilation from a cold cache.",
        f"`done` and `remain` count units as a rehearsal does them, which ended after {machine.now():.0f} seconds.",
    ]
    return "\n".join([*about, "", columns(header, rows)])


def row_of(done: Done) -> list[object]:
    """Return the row of a slice."""
    before, left = to_do(done.before), len(to_do(done.after))
    return [
        done.slice.name,
        done.slice.what,
        len(done.before),
        len(done.before) - len(before),
        len(before),
        round(takes(done, before)),
        round(done.slice.whole),
        len(before) - left,
        left,
    ]


def to_do(planned: Sequence[Planned]) -> list[Planned]:
    return [each for each in planned if each.missing]


def takes(done: Done, planned: Sequence[Planned]) -> float:
    """Return an estimate of the seconds that all these units take."""
    if not planned:
        return 0.0
    work = sum(each.missing * each.seconds for each in planned)
    return done.slice.processes * estimates.START + work + estimates.to_compile(sum(each.kernels for each in planned))
