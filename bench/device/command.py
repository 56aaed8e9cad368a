"""Check the kernels and time the layers on a GPU, in parts of a few minutes each.

The parts are:

  switches     Decides which switches of tritonconv/gpu.py may be on. It computes small problems with TMA descriptors
               that programs build and with those of the host, and compares them bit by bit. Then it runs the tests of
               CUDA graphs, and times eight layers both ways. At last it runs the tests of dependent launches, and times
               wgrad of three layers with and without them.
  correctness  Runs the tests that need a GPU, among them every shipped tile in every dtype. Then it checks random
               problems until its time is up.
  layers       Times every pass of every layer beside torch, bfloat16 first. It leaves out passes that have a committed
               result on this GPU with the same kernels and tiles.
  precision    Times fourteen layers in float16, tf32 and bfloat16. Both channels_last and NCHW are timed.
  profile      Lists the kernels that torch (cuDNN) runs for each layer in bfloat16, and their times.

The default parts are switches, correctness and layers, which take ten minutes. switches runs for 170 seconds at most.
Each other part runs for --seconds at most, or a little longer if its last test or layer takes longer than expected.
Each part writes DIR/PART.json as it goes. The file is valid JSON at any moment, so the command may be stopped at any
moment. layers also writes a report, DIR/layers.md.

Commit DIR/switches.json as bench/results/<gpu>-switches.json. tests/bench/test_switches.py then fails if it confirms a
switch that is off, or does not confirm one that is on: set the switch in tritonconv/gpu.py as the test says.

Without a GPU this is a rehearsal: the same work on small problems in Triton's interpreter. It shows that the command
works. Its files say that they are a rehearsal, and they cannot be published.

The exit status is 1 if a result was wrong, a test failed or an error stopped the work. It is 2 if the arguments are not
usable. Otherwise it is 0, also if the time was up before all was done.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

from bench.device import cache, correctness, speed, switches
from bench.device.schedule import Clock
from bench.layers import select

PARTS: dict[str, Callable[[argparse.Namespace, torch.device, Clock, Callable[[], None]], int]] = {
    "switches": switches.run,
    "correctness": correctness.run,
    "layers": speed.run_layers,
    "profile": speed.run_profile,
    "precision": speed.run_precision,
}
DEFAULT = ["switches", "correctness", "layers"]
SECONDS = 200.0
# The time of parts that do not take --seconds.
LIMITS = {"switches": switches.LIMIT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="write the results of each part to DIR/PART.json"
    )
    parser.add_argument(
        "--part",
        nargs="+",
        choices=list(PARTS),
        default=DEFAULT,
        metavar="PART",
        help=f"run these parts, one after another: some of {', '.join(PARTS)} (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="N",
        help=f"the time for each part but switches in seconds; inf is no limit (default: {SECONDS:g})",
    )
    parser.add_argument(
        "--rows",
        default="all",
        metavar="LAYERS",
        help="for layers and profile, layers of bench/layers.csv: all, smoke (fourteen layers), or names with commas "
        "between them (default: all)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for correctness, the first random problem (default: 0)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="for layers, also time passes with a committed result of these kernels",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=f"start with the compiled kernels in DIR/{cache.ARCHIVE}, and save all compiled kernels there",
    )


def main(args: argparse.Namespace) -> int:
    """Run the parts one after another. Return the exit status: of several parts, the largest.

    One part runs in this process. Of several parts, each runs in a process of its own.
    """
    select(args.rows)
    signal.signal(signal.SIGTERM, stop)
    if len(args.part) > 1:
        return max([run_alone(part) for part in args.part])
    gpu = torch.cuda.is_available()
    if not gpu:
        print("There is no GPU. This is a rehearsal on small problems in Triton's interpreter.", file=sys.stderr)
    with cache.kept(args.cache) as keep:
        (part,) = args.part
        clock = Clock(LIMITS.get(part, args.seconds))
        return PARTS[part](args, torch.device("cuda" if gpu else "cpu"), clock, keep)


def run_alone(part: str) -> int:
    """Run this command for one part in a process of its own, and return its exit status.

    If that process loses the GPU, the process of the next part can still use it.
    """
    with subprocess.Popen([sys.executable, "-m", "bench", *sys.argv[1:], "--part", part]) as process:
        try:
            return process.wait()
        finally:
            process.terminate()


def stop(signum: int, frame: FrameType | None) -> None:
    """Exit by an exception when a signal arrives, so that the processes that this one started are stopped too."""
    sys.exit(128 + signum)
