"""`python -m tests.sweep`: random problems, forward and all gradients, until one is wrong or there are no more.

Half of them are of small integers, which must come out exact, and half are compared with torch in float64. The first
that is wrong ends the sweep, with exit status 1, the seed that replays it, and the least of it that is still wrong, as
a line for the table in tests/support/cases.py. Without a GPU the kernels run in Triton's interpreter.
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
    warnings.filterwarnings("ignore", "Using padding='same'")  # torch's, of the yardstick
    torch.set_num_threads(1)
    if args.problem is not None:
        try:
            found = replay.wrong(args.problem, args.device)
        except (ValueError, KeyError) as error:
            raise SystemExit(f"--problem takes what tritonconv.verify prints, not this: {error!r}") from error
        print(found or "nothing is wrong with it")
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
    print(
        f"{done} problems, seeds {args.seed} to {args.seed + done - 1}: none is wrong; {time.monotonic() - start:.0f} s"
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, metavar="N", help="how many problems (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first; the next has the next (0)")
    parser.add_argument("--seconds", type=float, metavar="T", help="begin no problem after so long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=[name for name in DTYPES if name != "float64"], help="instead of the drawn")
    parser.add_argument("--problem", metavar="JSON", help="one call of an operator, as tritonconv.verify names it")
    return parser.parse_args()


def report(seed: int, case: Case, found: str, args: argparse.Namespace) -> int:
    """Print what was found, and the least that shows it, unless the GPU is lost. Returns the exit status."""
    chosen = f" --dtype {args.dtype}" if args.dtype else ""
    print(f"seed {seed}: {found}\n  {case.line}")
    print(f"replay: python -m tests.sweep --seed {seed} --count 1 --device {args.device}{chosen}")
    if torch.device(args.device).type == "cuda":
        torch.cuda.synchronize()
    integer = integers(seed)
    least = shrink(case, lambda each: wrong(each, args.device, integer, seed) is not None)
    print(f"shrunk: {wrong(least, args.device, integer, seed)}\nfor tests/support/cases.py:\n    {least.line},")
    return 1


if __name__ == "__main__":
    with interpreting():
        sys.exit(main())
