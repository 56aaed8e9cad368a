"""Compare the host's time of a call with torch's, and count the Python functions that a call enters. No GPU is needed.

Kernels are compiled for a fake GPU, and do nothing when they are started. So a call takes as long as it takes the host.
The unit is torch's own convolution of one pixel on the CPU, which takes the host nearly all of its time, too. Both run
in turns in one process, so that a slow machine slows both.

The fake GPU leaves out Triton's launcher, of which the rows "launcher" count the part in Python. It also leaves out
CUDA's allocator, the questions for the current device and stream, and the thread that runs backward. On a GPU, `pytest
bench` measures the host's time of the whole call (`host_us`).

The exit status is 1 if --against finds something worse, or nothing to compare with. It is 2 if the arguments are not
usable. Otherwise it is 0.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import results, table
from bench.host import idle_gpu, measure
from bench.results import RESULTS, Row

COMMITTED = RESULTS / "host.json"
# The fields that identify a row. The others are measured.
KEYS = ("call", "torch", "triton", "python")
LEGEND = """\
ratio      the host's time of a call, over that of torch's convolution of one pixel. Medians.
functions  the Python functions that a call enters, torch's included.
A step is forward and backward. The layers have 64 channels, 64 filters of 3 x 3 taps and a bias, in bfloat16 and
channels_last. The names of other rows end with what is different:
autocast    a float32 layer in autocast to bfloat16. The unit is torch's step in autocast.
transposed  a transposed convolution, and so is the unit.
local       a locally connected layer. torch has none, so the unit is a convolution.
float32, contiguous  another dtype or memory format, with 8 channels. Operands are copied.
launcher    the launchers of kernels do in Python what Triton's own do.
programs' descriptors, host's descriptors  the same, for images of 8 x 8 pixels, whose three kernels use TMA. The last
            words say who makes the TMA descriptors."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows of the table to FILE, as a JSON list")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="?",
        const=COMMITTED,
        metavar="FILE",
        help="compare with the rows in FILE, and fail if a call enters more functions, or takes 25 %% longer (without "
        "FILE: bench/results/host.json)",
    )
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="measure in N turns (default: 100)")


def main(args: argparse.Namespace) -> int:
    """Measure all calls, and print the table and what got worse. Return the exit status."""
    if args.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {args.rounds}")
    committed = results.read_rows(args.against) if args.against else []
    gpu = idle_gpu.IdleGpu()
    idle_gpu.install(gpu)
    rows = measure.measured(args.rounds, gpu)
    print(f"{table.columns(list(rows[0]), [list(row.values()) for row in rows])}\n\n{LEGEND}")
    if args.json:
        results.write(args.json, f"{results.lines(rows)}\n")
    if not args.against:
        return 0
    pairs = paired(rows, committed)
    worse = regressions(pairs)
    print(f"{len(pairs)} of {len(rows)} calls compared with {args.against}: {len(worse)} figures are worse.")
    if not pairs:
        print("There is nothing to compare: only rows of the same versions of torch, Triton and Python are compared.")
    if worse:
        print("\n".join(worse))
    return 1 if worse or not pairs else 0


def paired(rows: Sequence[Row], committed: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return pairs of a row and the committed row of the same call and versions, where there is one."""
    before = {tuple(row[name] for name in KEYS): row for row in committed}
    keyed = [(tuple(row[name] for name in KEYS), row) for row in rows]
    return [(row, before[key]) for key, row in keyed if key in before]


def regressions(pairs: Sequence[tuple[Row, Row]], tolerance: float = 0.25) -> list[str]:
    """Return a line for each figure that is worse than the committed one.

    Functions may not become more. The ratio may not grow by more than the share `tolerance`, which is for noise.
    """
    found = []
    for row, old in pairs:
        if row["functions"] > old["functions"]:
            found.append(f"{row['call']}: functions {old['functions']} -> {row['functions']}")
        if row["ratio"] > old["ratio"] * (1 + tolerance):
            found.append(f"{row['call']}: ratio {old['ratio']} -> {row['ratio']}")
    return found
