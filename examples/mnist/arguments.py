"""What the example is told on the command line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def parse(words: Sequence[str], description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", choices=["mnist", "digits"], help="28x28 or 8x8 pixels; default: mnist, with --local digits")
    add("--implementation", choices=["auto", "triton", "reference", "torch"], default="auto")
    add("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:1")
    add("--epochs", type=at_least(1), default=15)
    add("--batch-size", type=at_least(1), default=64)
    add("--dtype", choices=DTYPES, default="float32", help="the 16-bit ones by autocast")
    add("--seed", type=at_least(0), default=0)
    add("--limit", type=at_least(10), help="use only so many images, a fifth of them to test with")
    add("--picture", metavar="FILE", type=drawable, help="draw digits and their reconstructions: .png, .pdf or .svg")
    add("--local", action="store_true", help="compare a locally connected layer with a convolution instead")
    add("--seeds", type=at_least(2), help="with --local: over so many seeds, from --seed on; default: 10")
    found = parser.parse_args(words)
    if found.local and found.implementation == "torch":
        parser.error("--local: torch.nn has no locally connected layer")
    if found.local and found.picture:
        parser.error("--local draws no picture")
    if found.seeds and not found.local:
        parser.error("--seeds goes with --local")
    found.data = found.data or ("digits" if found.local else "mnist")
    found.seeds = found.seeds or 10
    return found


def device(word: str) -> torch.device:
    try:
        found = torch.empty(0, device=word).device
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from None
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, but got {word}")
    return found


def at_least(smallest: int) -> Callable[[str], int]:
    def integer(word: str) -> int:
        if int(word) < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, but got {word}")
        return int(word)

    return integer


def drawable(word: str) -> Path:
    path = Path(word)
    if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a .png, .pdf or .svg in a folder that exists, but got {word}")
    return path
