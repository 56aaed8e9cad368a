"""The standing work for a GPU that is there only for minutes: is it right, and how fast is it?

`correctness` runs the tests that need a GPU, every shipped tile in every dtype among them, and then random problems
until its time is up. `layers` times the layers whose kernels, or tiles, are not those of the newest committed result:
all passes, against torch, bfloat16 first. Both write what they have as they go, as JSON that is whole at any moment, so
they may be stopped at any moment. On request: `profile`, the kernels that cuDNN runs, and `precision`, other dtypes and
NCHW. Without a GPU this is a rehearsal: small problems, in Triton's interpreter, marked as such.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench import cache, correctness, throughput
from bench.schedule import Clock

PARTS = ("correctness", "layers", "profile", "precision")
SECONDS = 285.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go: one JSON a part")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["correctness", "layers"])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"the time for each part ({SECONDS:g})")
    parser.add_argument("--rows", default="all", help="layers: all, smoke, or names with commas between them")
    parser.add_argument("--seed", type=int, default=0, help="of the first random problem")
    parser.add_argument("--again", action="store_true", help="time all layers, whatever has been committed")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="start from the compiled kernels kept there, keep them"
    )


def main(args: argparse.Namespace) -> int:
    """Run the parts one after another. Returns the exit status: 1 if something is wrong or was stopped by an error."""
    gpu = torch.cuda.is_available()
    if not gpu:
        print("no GPU: this is a rehearsal, of small problems in Triton's interpreter", file=sys.stderr)
    device = torch.device("cuda" if gpu else "cpu")
    parts: dict[str, Callable[[argparse.Namespace, torch.device, Clock], int]] = {
        "correctness": correctness.run,
        "layers": throughput.run_layers,
        "profile": throughput.run_profile,
        "precision": throughput.run_precision,
    }
    status = 0
    with cache.kept(args.cache) as keep:
        for part in args.part:
            status |= parts[part](args, device, Clock(args.seconds))
            keep()
    return status
