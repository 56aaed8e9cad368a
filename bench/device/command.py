"""The standing work for a GPU that is there only for minutes: is it right, and how fast is it?

`correctness` runs the tests that need a GPU, every shipped tile in every dtype among them, and then random problems
until its time is up. `layers` times the layers whose kernels, or tiles, are not those of the newest committed result:
all passes, against torch, bfloat16 first. On request: `profile`, the kernels that cuDNN runs; `precision`, other dtypes
and NCHW. Each part writes what it has as it goes, as JSON that is whole at any moment, so it may be stopped at any
moment. Without a GPU this is a rehearsal: small problems, in Triton's interpreter, marked as such.

The exit status is 1 if a result was wrong, a test failed, or the work was stopped by an error.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

from bench.device import cache, correctness, speed
from bench.device.schedule import Clock
from bench.layers import select

PARTS: dict[str, Callable[[argparse.Namespace, torch.device, Clock, Callable[[], None]], int]] = {
    "correctness": correctness.run,
    "layers": speed.run_layers,
    "profile": speed.run_profile,
    "precision": speed.run_precision,
}
SECONDS = 285.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go: one JSON a part")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=["correctness", "layers"])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"the time for each part ({SECONDS:g})")
    parser.add_argument("--rows", default="all", help="layers: all, smoke, or names with commas between them")
    parser.add_argument("--seed", type=int, default=0, help="of the first random problem")
    parser.add_argument("--again", action="store_true", help="time also what has a committed result of these kernels")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep what Triton compiles in DIR, as one file, and begin with it"
    )


def main(args: argparse.Namespace) -> int:
    """Run the parts one after another. Returns the exit status."""
    select(args.rows)
    signal.signal(signal.SIGTERM, stop)
    if len(args.part) > 1:
        return max([run_alone(part) for part in args.part])
    gpu = torch.cuda.is_available()
    if not gpu:
        print("no GPU: this is a rehearsal, of small problems in Triton's interpreter", file=sys.stderr)
    with cache.kept(args.cache) as keep:
        clock = Clock(args.seconds)
        return PARTS[args.part[0]](args, torch.device("cuda" if gpu else "cpu"), clock, keep)


def run_alone(part: str) -> int:
    """The same call for one part, in a process of its own: a GPU that one loses is there again for the next."""
    with subprocess.Popen([sys.executable, "-m", "bench", *sys.argv[1:], "--part", part]) as process:
        try:
            return process.wait()
        finally:
            process.terminate()


def stop(signum: int, frame: FrameType | None) -> None:
    """End as if by an exception, so that what was started is stopped too."""
    sys.exit(128 + signum)
