"""Compare a locally connected layer with a convolution on aligned images: `python examples/mnist/train.py --local`.

For each seed the same small classifier is trained twice, on the same images in the same order. Its middle layer is a
convolution in one run and a locally connected layer in the other. Both have the same channels and multiplications, but
the locally connected layer has different filters at every location.

The comparison is made for two classifiers. The last layer of the first reads the features of all locations. So it can
tell locations apart whatever the middle layer is. The last layer of the second reads only the mean over all locations.
So the features themselves must depend on the location, and a convolution knows of locations only by the padding at the
rim.

The locally connected layer has more parameters, as the table shows. A convolution with as many parameters would have
more channels and more multiplications. It is not in the comparison.
"""

import argparse
import sys
from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

import images
import torch
from arguments import DTYPES
from images import Images
from network import autocast, choose, placed, wide
from torch import nn
from torch.nn.functional import cross_entropy

import tritonconv

READERS = ("all locations", "their mean")
# The columns of the table: (the last layer reads the mean, the middle layer is locally connected).
COLUMNS = [(pooled, local) for pooled in (False, True) for local in (False, True)]

# Critical values of Student's t (5 %, two-sided) by the number of seeds. A mean difference of fewer standard errors may
# be chance. More than ten seeds use the value of ten, which is slightly too strict.
BY_CHANCE = {2: 12.7, 3: 4.3, 4: 3.2, 5: 2.8, 6: 2.6, 7: 2.4, 8: 2.4, 9: 2.3, 10: 2.3}


def main(chosen: argparse.Namespace) -> None:
    """Train for each seed, then print all accuracies, their means and which layer wins."""
    device, dtype, seeds = chosen.device, DTYPES[chosen.dtype], range(chosen.seed, chosen.seed + chosen.seeds)
    try:
        train, test = images.load(chosen.data, chosen.seed, chosen.limit)
        size = train.pixels.shape[-1]
        network = build(chosen, False, True, size)
        with autocast(device, dtype):
            explanation = tritonconv.explain(network, test.to(device, wide(dtype)).pixels[: chosen.batch_size])
    except ModuleNotFoundError as missing:
        sys.exit(f'error: {missing}. Install what the examples need: pip install ".[examples]"')
    except NotImplementedError as refusal:
        sys.exit(f"error: {refusal}")

    print(f"{len(train.labels)} training images, {len(test.labels)} test images, shuffled anew for each seed")
    print(f"data {chosen.data}, epochs {chosen.epochs}, device {device}, dtype {chosen.dtype}\n")
    print("Test accuracy in %, with a convolution and with a locally connected layer (local) in its place.")
    print("The last layer of the classifier reads the features of all locations, or their mean.\n")
    print(f"{'':20}" + "".join(f"{reader:26}" for reader in READERS).rstrip())
    row("", ["convolution", "local"] * len(READERS))
    counts = [sum(p.numel() for p in build(chosen, *column, size).parameters()) for column in COLUMNS]
    row("parameters", [f"{count:,}" for count in counts])
    found = []
    for seed in seeds:
        train, test = (part.to(device, wide(dtype)) for part in images.load(chosen.data, seed, chosen.limit))
        found.append([accuracy(chosen, seed, *column, train, test) for column in COLUMNS])
        row(f"seed {seed}", [f"{each:.2f}" for each in found[-1]])
    columns = list(zip(*found, strict=True))
    row("mean", [f"{mean(column):.2f}" for column in columns])
    row("standard deviation", [f"{stdev(column):.2f}" for column in columns])
    print()
    for reader, convolution, local in zip(READERS, columns[::2], columns[1::2], strict=True):
        print(f"reading {reader}: {verdict(convolution, local)}")
    print("A layer wins if the mean difference is significant: two-sided t-test over the seeds, 5 % level.")
    print("\nThe network with the locally connected layer, which is layer 2:")
    print(explanation)


def row(title: str, cells: Sequence[str]) -> None:
    """Print a row of the table, with the title 20 characters wide and each cell 13."""
    print(f"{title:20}" + "".join(f"{cell:13}" for cell in cells).rstrip(), flush=True)


def verdict(convolution: Sequence[float], local: Sequence[float]) -> str:
    """Return a sentence that says which layer wins, or that none does, from the accuracies of both in %.

    The i-th accuracy of each layer belongs to the i-th seed. A layer wins if the mean difference is significant
    (`BY_CHANCE`).
    """
    differences = [b - a for a, b in zip(convolution, local, strict=True)]
    difference, error = mean(differences), stdev(differences) / sqrt(len(differences))
    figures = (
        f"{difference:+.2f} percentage points for local, with a standard error of {error:.2f} "
        f"over {len(differences)} seeds"
    )
    if abs(difference) <= BY_CHANCE[min(len(differences), 10)] * error:
        return f"no winner: {figures}"
    return f"the {'local layer' if difference > 0 else 'convolution'} wins: {figures}"


def build(chosen: argparse.Namespace, pooled: bool, local: bool, size: int) -> nn.Sequential:
    """Return an untrained classifier that maps images (B, 1, size, size) to logits (B, 10), on the chosen device.

    Args:
        chosen: the command line.
        pooled: whether the last layer reads the mean over all locations.
        local: whether the middle layer is locally connected.
        size: rows and columns of the images in pixels, divisible by 4.
    """
    middle: nn.Module
    if local:
        middle = tritonconv.LocallyConnected2d(16, 32, 3, input_size=size // 2, stride=2, padding=1)
    else:
        middle = tritonconv.Conv2d(16, 32, 3, stride=2, padding=1)
    network = nn.Sequential(
        tritonconv.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.SiLU(),
        middle,
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity(),
        nn.Flatten(),
        nn.Linear(32 if pooled else 32 * (size // 4) ** 2, 10),
    )
    choose(chosen.implementation, network)
    return placed(network, chosen.device, DTYPES[chosen.dtype])


def accuracy(chosen: argparse.Namespace, seed: int, pooled: bool, local: bool, train: Images, test: Images) -> float:
    """Train one classifier and return its accuracy on the test images in per cent."""
    dtype, batch_size = DTYPES[chosen.dtype], chosen.batch_size
    torch.manual_seed(seed)
    network = build(chosen, pooled, local, train.pixels.shape[-1])
    if chosen.device.type == "cuda":
        with autocast(chosen.device, dtype):
            tritonconv.warmup(network, train.pixels[:batch_size])
    # The two layers drew different amounts of random numbers. Seeding again gives both the same order of images.
    torch.manual_seed(seed)
    fit(network, train, chosen.epochs, batch_size, dtype)
    with torch.no_grad(), autocast(chosen.device, dtype):
        read = torch.cat([network(batch).argmax(1) for batch in test.pixels.split(batch_size)])
    return 100 * (read == test.labels).double().mean().item()


def fit(network: nn.Sequential, train: Images, epochs: int, batch_size: int, dtype: torch.dtype) -> None:
    """Train `network` for `epochs`. Unlike in `train.py`, images are not shifted, because they must stay aligned."""
    device, count = train.pixels.device, len(train.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    for _ in range(epochs):
        for batch in torch.randperm(count).to(device).split(batch_size):
            with autocast(device, dtype):
                loss = cross_entropy(network(train.pixels[batch]), train.labels[batch])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
