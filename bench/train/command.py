"""Time whole training steps of models, torch beside tritonconv, and compare their loss curves.

A step is forward, loss, backward and SGD with momentum, in channels_last and bfloat16 autocast. It runs in three ways:

  eager    As it is written.
  graph    The whole step as a CUDA graph.
  compile  Forward and backward under torch.compile.

The models are ResNet-50, MobileNetV3-Large (torchvision), ConvNeXt-T, EfficientNet-B0 (timm), a U-Net, a DCGAN and a
locally connected classifier. A model whose package is not installed is skipped. For the locally connected layers, which
torch does not have, unfold + einsum stands for torch.

The loss curves of the last three models are compared for two seeds. Both implementations start with the same weights
and see the same data. They agree if their distance is at most that between the seeds. The distance is the RMS
difference of the means of ten parts of a curve.

Without a GPU, tiny versions of the models run on the CPU, where the reference takes the place of the kernels. Their
times are no results.

The exit status is 1 if a step failed or was wrong, if loss curves do not agree, or if the GPU was lost. It is 2 if the
arguments are not usable. Otherwise it is 0, also if the time was up before all was done.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from bench import results
from bench.device.schedule import Clock
from bench.train import table
from bench.train.models import MODELS
from bench.train.run import FEW_STEPS, STEPS, run, units
from bench.train.training import WAYS

# torch.compile takes a minute for some models on a CPU.
WAYS_ON_CPU = ["eager"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=list(MODELS),
        metavar="MODEL",
        help=f"some of {', '.join(MODELS)}",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=list(WAYS),
        metavar="WAY",
        help=f"some of {', '.join(WAYS)} (default: all; on a CPU: {', '.join(WAYS_ON_CPU)})",
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="N", help="begin nothing that may end after N seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record to FILE")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps of the loss curves; 0 leaves them out (default: {STEPS}; on a CPU: {FEW_STEPS})",
    )


def main(args: argparse.Namespace) -> int:
    """Measure the models in the ways, print the tables, and return the exit status."""
    if args.steps is not None and args.steps < 0:
        raise ValueError(f"--steps must not be negative, but is {args.steps}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("There is no GPU. Tiny models train on the CPU: their times are no results.", file=sys.stderr)
        torch.set_num_threads(1)  # layers this small gain little from more, and threads wait for one another
    ways = args.ways or (list(WAYS) if device.type == "cuda" else WAYS_ON_CPU)
    chosen = [unit for unit in units(device, args.steps) if unit.model in args.models and unit.how in (*ways, "loss")]
    with tempfile.TemporaryDirectory() as folder:
        path = args.json or Path(folder) / "training.json"
        path.unlink(missing_ok=True)
        status = run(path, device, Clock(args.seconds), lambda: None, chosen=chosen)
        print(f"\n{table.text(results.read(path))}")
    return status
