"""Check the kernels and time the layers on a GPU that is there for minutes: in slices, the most valuable first.

A call takes at most seven minutes, with the start of processes and the compilation of all kernels. Each slice has a
budget in seconds. What it does not use is for the slices after it. Nothing is begun that may not end in time. The
slices, with their budgets without the start of processes:

  switches     104 s  Decides which switches of tritonconv/gpu.py may be on. It runs the tests of dependent launches and
                      of CUDA graphs, and times wgrad of three layers with and without dependent launches. Then it
                      computes small problems with TMA descriptors that programs build and with those of the host, and
                      compares them bit by bit. At last it times eight layers both ways.
  correctness   42 s  Runs the tests that need a GPU, the quickest files first, and then random problems.
  torch         36 s  Times torch alone: the operators of every layer in bfloat16, new ones first.
  step          25 s  Times whole steps of six layers beside torch. The host's time counts most here.
  layers        24 s  Times every pass of the other layers with a shared weight beside torch, in bfloat16.
  varying       12 s  Times local, per-sample, dynamic and depthwise layers beside their contenders.
  training      62 s  Times training steps of networks (`bench train`).
  precision     10 s  Times the smoke layers in float16, TF32 and bfloat16, in channels_last and in NCHW.
  tuning        11 s  Times promising tiles of problems that no table has a row for.
  profile             Lists the kernels that torch (cuDNN) runs, with their times. It runs only if --slice names it.

Timed slices measure each unit in two processes, because times differ between processes. What has a current result is
not repeated, and the next call goes on with what is missing: `bench/device/current.py` says what counts as current.

The files in DIR are switches.json, correctness.json, times.json (all timed slices), training.json, tiles.json and
summary.md, which is also printed. They are valid at any moment, so the command may be stopped at any moment. A later
call with the same DIR and the same code continues them.

Commit DIR/switches.json as bench/results/<gpu>-switches.json, and DIR/correctness.json and DIR/training.json likewise.
tests/bench/test_switches.py then fails if a switch should be on or off: set it in tritonconv/gpu.py as the test says.
Publish the times with `python -m bench report --publish DIR/times.json`, and take tiles over with
`python -m bench tune --take DIR/tiles.json`.

--plan prints what a call would do, and --rehearse does it on a pretended GPU, in seconds. Its clock goes by committed
times and by estimates. Without a GPU, and without these options, the slices run on small problems in Triton's
interpreter. Both are rehearsals: they show that the command works, their files say so, and they cannot be published.

The exit status is 1 if a result was wrong, a test failed or an error stopped the work. It is 2 if the arguments are not
usable. Otherwise it is 0, also if the time was up before all was done.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from bench.device import cache, contests, plan
from bench.device.call import call, process
from bench.device.machine import Machine
from bench.device.pretended import GPUS, Pretended
from bench.device.slices import DEFAULT, NAMED, WHOLE
from bench.layers import select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the results to DIR")
    parser.add_argument(
        "--slice",
        nargs="+",
        choices=list(NAMED),
        default=[each.name for each in DEFAULT],
        metavar="SLICE",
        help=f"run these slices, in this order: some of {', '.join(NAMED)} (default: all but profile)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help=f"the time of all slices together, which scales their budgets; inf is no limit (default: {WHOLE:g} for "
        "the default slices, and otherwise the sum of the budgets)",
    )
    parser.add_argument(
        "--rows",
        default=contests.EVERY,
        metavar="LAYERS",
        help="time these layers of bench/layers.csv: all, smoke, or names with commas between them "
        f"(default: {contests.EVERY})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for correctness, the first random problem (default: 0)"
    )
    parser.add_argument("--again", action="store_true", help="also do what has a current committed result")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help=f"start with the compiled kernels in FOLDER/{cache.ARCHIVE}, and save all compiled kernels there at the "
        "end, which takes a few seconds more",
    )
    parser.add_argument("--plan", action="store_true", help="print what a call would do, and how long it would take")
    parser.add_argument("--rehearse", action="store_true", help="do everything on a pretended GPU, in seconds")
    parser.add_argument(
        "--gpu",
        choices=list(GPUS),
        default=next(iter(GPUS)),
        help="for --plan and --rehearse, the GPU that is pretended (default: %(default)s)",
    )
    # For the processes that the command starts: which process of a slice it is, when its time is up, and whether the
    # one before it has compiled everything.
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Plan, rehearse or run the slices. Return the exit status: of several slices, the largest."""
    select(args.rows)
    if args.plan:
        print(plan.table(args))
        return 0
    if args.out is None:
        raise ValueError("name a folder with --out DIR")
    signal.signal(signal.SIGTERM, stop)
    gpu = torch.cuda.is_available()
    machine = Pretended(args.gpu) if args.rehearse else Machine(torch.device("cuda" if gpu else "cpu"))
    if args.process is not None:
        return process(args, machine, lambda: None)
    if machine.rehearsal:
        print(f"This is a rehearsal, {machine.rehearsal}.", file=sys.stderr)
    with cache.kept(args.cache):  # which the processes inherit
        return call(args, machine)


def stop(signum: int, frame: FrameType | None) -> None:
    """Exit by an exception when a signal arrives, so that the processes that this one started are stopped too."""
    sys.exit(128 + signum)
