"""Fuzz the Triton kernels: run random convolutions, forward and all gradients.

Half of the problems have small integers, whose results must be exact. The
others are compared with torch in float64. The sweep stops at the first problem
that is wrong. It then prints the command that repeats it, and shrinks it to the
simplest problem that is still wrong: a line for tests/support/cases.py.

Without a GPU the kernels run in Triton's interpreter. There 100 problems take
about half a minute on one CPU core. With --problem, it repeats one call that
`tritonconv.verify` reported instead.

Exit status: 0 if nothing is wrong, 1 if a problem is wrong, 2 if the options
are not understood.
"""

import argparse
import os
import sys
import time
import warnings

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

from tests.support.cases import DTYPES, Case
from tests.support.interpreter import interpreting
from tests.sweep import replay
from tests.sweep.check import wrong
from tests.sweep.problems import integers, problem
from tests.sweep.shrink import shrink


def main() -> int:
    args = arguments()
    warnings.filterwarnings("ignore", "Using padding='same'")  # torch's own warning, in the oracle
    torch.set_num_threads(1)
    if args.problem is not None:
        try:
            found = replay.wrong(args.problem, args.device)
        except (ValueError, KeyError) as error:
            print(f"--problem takes the JSON that tritonconv.verify prints; this gave {error!r}", file=sys.stderr)
            return 2
        print(f"The call is wrong: {found}" if found else "The call is right.")
        return int(found is not None)
    start, done = time.monotonic(), 0
    for seed in range(args.seed, args.seed + args.count):
        if args.seconds is not None and time.monotonic() - start > args.seconds:
            break
        case = problem(seed, args.dtype)
        found = wrong(case, args.device, integers(seed), seed)
        if found is not None:
            return report(seed, case, found, args)
        done += 1
    seeds = f"seeds {args.seed} to {args.seed + done - 1}"
    print(f"{done} random problems ({seeds}), none is wrong. {time.monotonic() - start:.0f} s")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=100, metavar="N", help="how many problems to run (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the first problem; each next problem has the next seed (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="T", help="start no further problem after T seconds (default: no limit)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to run (default: cuda if there is a GPU, else cpu)",
    )
    parser.add_argument(
        "--dtype",
        choices=[name for name in DTYPES if name != "float64"],
        help="run all problems in this dtype, but for those that torch pads (default: each problem draws its own)",
    )
    parser.add_argument(
        "--problem",
        metavar="JSON",
        help="repeat the call that a message of tritonconv.verify names; of the other options only --device counts",
    )
    return parser.parse_args()


def report(seed: int, case: Case, found: str, args: argparse.Namespace) -> int:
    """Print what is wrong, the command that repeats it, and the shrunk problem. Return the exit status, 1.

    If the error has left the GPU unusable, synchronizing raises, and the problem is not shrunk.
    """
    chosen = f" --dtype {args.dtype}" if args.dtype else ""
    print(f"The problem of seed {seed} is wrong: {found}\n    {case.line}")
    print(f"To repeat it: python -m tests.sweep --seed {seed} --count 1 --device {args.device}{chosen}", flush=True)
    if torch.device(args.device).type == "cuda":
        torch.cuda.synchronize()
    integer = integers(seed)
    least = shrink(case, lambda each: wrong(each, args.device, integer, seed) is not None)
    table = "tests/support/varying.py" if least.varies else "tests/support/cases.py"
    print(f"The simplest problem that is still wrong: {wrong(least, args.device, integer, seed)}")
    print(f"To make it a named test, add this line to {table}:\n    {least.line},")
    return 1


if __name__ == "__main__":
    with interpreting():
        sys.exit(main())
