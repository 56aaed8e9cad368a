"""What the networks are trained on: random images for times, and drawn shapes or handwritten digits for loss curves."""

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.train.networks import NOISE

Image = tuple[int, int, int]
Batch = tuple[Tensor, ...]

# Classes of the labels of random images.
CLASSES = 1000
# Kinds of drawn shapes: squares, discs, crosses and frames.
KINDS = 4


def random_images(count: int, image: Image, classes: int, generator: torch.Generator) -> Batch:
    """Return normal random images, and random labels below `classes`."""
    images = torch.randn(count, *image, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def drawn(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return masks (count, 1, size, size) of 0 and 1, with one shape each, and the kind of each shape.

    The shape lies anywhere within the image, and its radius is between an eighth and a quarter of `size`.
    """
    kinds = torch.randint(KINDS, (count,), generator=generator)
    radius, y, x = torch.rand(3, count, 1, 1, generator=generator)
    radius = size * (1 + radius) / 8
    y, x = (radius + (size - 1 - 2 * radius) * at for at in (y, x))
    pixel = torch.arange(size)
    down, right = (pixel.view(-1, 1) - y).abs(), (pixel - x).abs()
    square = torch.maximum(down, right)
    inside = [
        square <= radius,
        down.square() + right.square() <= radius.square(),
        (square <= radius) & (torch.minimum(down, right) <= radius / 3),
        (square <= radius) & (square >= radius / 2),
    ]
    masks = torch.stack(inside)[kinds, torch.arange(count)]
    return masks.unsqueeze(1).float(), kinds


def segmentation(count: int, image: Image, generator: torch.Generator) -> Batch:
    """Return images of a shape in a random colour under noise, and the mask of each shape."""
    masks, _ = drawn(count, image[1], generator)
    colour = 0.5 + torch.rand(count, image[0], 1, 1, generator=generator)
    return masks * colour + 0.3 * torch.randn(count, *image, generator=generator), masks


def has_digits() -> bool:
    """Whether scikit-learn is installed, which has images of handwritten digits."""
    return find_spec("sklearn") is not None


def labelled(count: int, image: Image, generator: torch.Generator) -> Batch:
    """Return images between 0 and 1 and their classes: handwritten digits, or shapes without scikit-learn."""
    if has_digits():
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=generator)[torch.arange(count) % len(labels)]
        pixels = torch.from_numpy(pixels).view(-1, 1, 8, 8).float()[order] / 16
        images, classes = interpolate(pixels, image[1:], mode="bilinear"), torch.from_numpy(labels)[order]
    else:
        images, classes = drawn(count, image[1], generator)
    return images.expand(-1, image[0], -1, -1), classes


def for_a_gan(count: int, image: Image, generator: torch.Generator) -> Batch:
    """Return noise for the generator, and images between -1 and 1 for the discriminator (`labelled`)."""
    images, _ = labelled(count, image, generator)
    return torch.randn(count, NOISE, 1, 1, generator=generator), 2 * images - 1


def random_for_a_gan(count: int, image: Image, classes: int, generator: torch.Generator) -> Batch:
    """Return noise for the generator, and random images for the discriminator."""
    images, _ = random_images(count, image, classes, generator)
    return torch.randn(count, NOISE, 1, 1, generator=generator), images.tanh()


def placed(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on `device`, with images in channels_last."""
    return tuple(
        each.to(device).contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each.to(device)
        for each in batch
    )
