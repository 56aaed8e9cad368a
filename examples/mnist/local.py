"""What a locally connected layer is worth on aligned images: `python examples/mnist/train.py --local`.

The same small classifier learns twice for each seed, from the same images in the same order. Its middle layer is once a
convolution and once locally connected: as many channels and multiplications, but filters of their own for every
location. There are two such classifiers. One's last layer reads the features of all locations, and so can tell places
apart behind either layer. The other's reads their mean: what depends on the place must then be in the features, and a
convolution knows of places only what the padding at the rim tells it.

The local layer has more parameters, as the table says. A convolution with as many would have more channels, and hence
more multiplications; it is not in the comparison.
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
# Of the table: whether the last layer reads the mean, and whether the middle one is locally connected.
COLUMNS = [(pooled, local) for pooled in (False, True) for local in (False, True)]

# Student's t: the standard errors that 5 % of differences over so many seeds exceed by chance. For more: as for ten.
BY_CHANCE = {2: 12.7, 3: 4.3, 4: 3.2, 5: 2.8, 6: 2.6, 7: 2.4, 8: 2.4, 9: 2.3, 10: 2.3}


def main(chosen: argparse.Namespace) -> None:
    """Print the accuracies for each seed, and what they come to."""
    device, dtype, seeds = chosen.device, DTYPES[chosen.dtype], range(chosen.seed, chosen.seed + chosen.seeds)
    try:
        train, test = images.load(chosen.data, chosen.seed, chosen.limit)
        size = train.pixels.shape[-1]
        network = build(chosen, False, True, size)
        with autocast(device, dtype):
            explanation = tritonconv.explain(network, test.to(device, wide(dtype)).pixels[: chosen.batch_size])
    except ModuleNotFoundError as missing:
        sys.exit(f'error: {missing}; pip install ".[examples]"')
    except NotImplementedError as refusal:
        sys.exit(f"error: {refusal}")

    print(f"{len(train.labels)} images to learn from, {len(test.labels)} to test with, shuffled anew for each seed")
    print(f"{chosen.data}, {chosen.epochs} epochs; {device}, {chosen.dtype}\n")
    print("test accuracy in %, where the last layer reads")
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
    print("\nwhich implementation runs the convolution (0) and the locally connected layer (2), and why\n")
    print(explanation)


def row(title: str, cells: Sequence[str]) -> None:
    print(f"{title:20}" + "".join(f"{cell:13}" for cell in cells).rstrip(), flush=True)


def verdict(convolution: Sequence[float], local: Sequence[float]) -> str:
    """Which won, from accuracies that belong together in pairs: both of a seed share the images."""
    differences = [b - a for a, b in zip(convolution, local, strict=True)]
    difference, error = mean(differences), stdev(differences) / sqrt(len(differences))
    figures = f"{difference:+.2f} for local, with a standard error of {error:.2f} over {len(differences)} seeds"
    if abs(difference) <= BY_CHANCE[min(len(differences), 10)] * error:
        return f"no winner: {figures}"
    return f"the {'local layer' if difference > 0 else 'convolution'} wins: {figures}"


def build(chosen: argparse.Namespace, pooled: bool, local: bool, size: int) -> nn.Sequential:
    """Image (B, 1, size, size) -> logits (B, 10), with `size` in pixels and divisible by 4."""
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
    """Of one classifier on the test images, in per cent."""
    dtype, batch_size = DTYPES[chosen.dtype], chosen.batch_size
    torch.manual_seed(seed)
    network = build(chosen, pooled, local, train.pixels.shape[-1])
    if chosen.device.type == "cuda":
        with autocast(chosen.device, dtype):
            tritonconv.warmup(network, train.pixels[:batch_size])
    torch.manual_seed(seed)  # the layers have drawn differently many numbers, and the order is to be the same
    fit(network, train, chosen.epochs, batch_size, dtype)
    with torch.no_grad(), autocast(chosen.device, dtype):
        read = torch.cat([network(batch).argmax(1) for batch in test.pixels.split(batch_size)])
    return 100 * (read == test.labels).double().mean().item()


def fit(network: nn.Sequential, train: Images, epochs: int, batch_size: int, dtype: torch.dtype) -> None:
    """Train for `epochs`. The images stay where they are: shifted, they would not be aligned."""
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
