"""Draw test images above their reconstructions."""

from pathlib import Path

import matplotlib
from images import Images
from torch import Tensor

matplotlib.use("Agg")  # draws without a screen
import matplotlib.pyplot as plt


def save(path: Path, test: Images, predictions: Tensor, reconstructions: Tensor) -> None:
    """Save a picture with the first test image of each digit above its reconstruction.

    The title of each image is the predicted digit, in red if it is wrong. Digits without a test image are left out.
    """
    found = [(test.labels == digit).nonzero().flatten() for digit in range(10)]
    shown = [int(indices[0]) for indices in found if len(indices) > 0]
    figure, axes = plt.subplots(2, len(shown), figsize=(1 + len(shown), 2.5), squeeze=False, layout="constrained")
    for (image, drawing), index in zip(axes.T, shown, strict=True):
        read, label = int(predictions[index]), int(test.labels[index])
        image.set_title(f"read {read}", fontsize=11, color="black" if read == label else "red")
        image.imshow(test.pixels[index, 0].numpy(force=True), cmap="gray_r", vmin=0, vmax=1)
        drawing.imshow(reconstructions[index, 0].numpy(force=True), cmap="gray_r", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("lightgray")
    for axis, side in zip(axes[:, 0], ("image", "drawn again"), strict=True):
        axis.set_ylabel(side, rotation=0, ha="right", va="center", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
