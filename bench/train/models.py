"""The models that are trained: which networks, losses and sizes, and whether their packages are installed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from bench.train import data
from bench.train.data import Batch, Image
from bench.train.losses import Discrimination, Generation, Loss
from bench.train.networks import UNet, discriminator, generator, local_classifier

# The loss of one part of a step, and the network whose parameters that part changes.
Part = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Size:
    """How many images a step has, their (C, H, W), the channels of a small network's first layer, and its rate.

    `rate` is the learning rate of loss curves. Rates are such that rounding changes a curve by less than a seed does.
    """

    batch: int
    image: Image
    width: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Model:
    """A model and its training.

    Attributes:
        name: As in rows and on the command line.
        build: A function of a size that returns the parts of a step, by the names of their loss curves.
        draw: A function that returns a batch of random data of this size.
        full: The size at which steps are timed on a GPU.
        tiny: The size on a CPU, also of loss curves.
        package: The package that has the network, or None for the networks of this benchmark.
        learnt: For a model with loss curves: the size on a GPU, and a function that draws data to learn from.
    """

    name: str
    build: Callable[[Size], dict[str, Part]]
    draw: Callable[[Size, torch.Generator], Batch]
    full: Size
    tiny: Size
    package: str | None = None
    learnt: tuple[Size, Callable[[int, Image, torch.Generator], Batch]] | None = None

    def size(self, device: torch.device) -> Size:
        """Return the size at which steps are timed on `device`."""
        return self.full if device.type == "cuda" else self.tiny

    def missing(self) -> str | None:
        """Return why the model's package can not be used, or None if it can."""
        try:
            imported(self.package or "torch")
        except Exception as error:
            return f"{self.package} can not be imported: {error}"
        return None


def classified(network: nn.Module) -> dict[str, Part]:
    return {"loss": (Loss(network, cross_entropy), network)}


def segmented(size: Size) -> dict[str, Part]:
    network = UNet(size.image[0], size.width)
    return {"loss": (Loss(network, binary_cross_entropy_with_logits), network)}


def adversarial(size: Size) -> dict[str, Part]:
    made = generator(size.image[0], size.image[1], size.width)
    judge = discriminator(size.image[0], size.image[1], size.width)
    return {"discriminator": (Discrimination(made, judge), judge), "generator": (Generation(made, judge), made)}


def imported(package: str) -> Any:
    """Return a package. Raise what its import raises.

    torchvision is compiled for torch with CUDA. With torch for CPUs its operators can not be loaded, and its import
    stops where it adds rules to them. Declaring them is enough, because no model here calls them.
    """
    for _ in range(8):
        try:
            return import_module(package)
        except RuntimeError as error:
            missing = re.fullmatch(r"operator (torchvision::\w+) does not exist", str(error))
            if missing is None:
                raise
            torch.library.define(missing[1], "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module(package)


def from_package(package: str, name: str) -> Callable[[Size], dict[str, Part]]:
    """Return a function that builds an untrained classifier of torchvision or timm by its name there."""

    def build(size: Size) -> dict[str, Part]:
        if package == "torchvision":
            return classified(imported("torchvision").models.get_model(name, weights=None))
        return classified(imported(package).create_model(name, pretrained=False))

    return build


def classifier(name: str, package: str, there: str) -> Model:
    """Return a classifier of random images with 1,000 classes. `there` is its name in the package."""
    return Model(
        name,
        from_package(package, there),
        lambda size, generator: data.random_images(size.batch, size.image, data.CLASSES, generator),
        full=Size(128, (3, 224, 224)),
        tiny=Size(2, (3, 64, 64)),
        package=package,
    )


MODELS = {
    model.name: model
    for model in (
        classifier("resnet50", "torchvision", "resnet50"),
        Model(
            "unet",
            segmented,
            lambda size, generator: data.segmentation(size.batch, size.image, generator),
            full=Size(16, (3, 256, 256), 64),
            tiny=Size(4, (3, 16, 16), 4, rate=0.05),
            learnt=(Size(16, (3, 64, 64), 32, rate=0.05), data.segmentation),
        ),
        Model(
            "local",
            lambda size: classified(local_classifier(size.image[0], size.image[1], size.width)),
            lambda size, generator: data.random_images(size.batch, size.image, 10, generator),
            full=Size(128, (3, 32, 32), 32),
            tiny=Size(8, (1, 8, 8), 8, rate=0.1),
            learnt=(Size(64, (1, 8, 8), 32, rate=0.05), data.labelled),
        ),
        Model(
            "dcgan",
            adversarial,
            lambda size, generator: data.random_for_a_gan(size.batch, size.image, 10, generator),
            full=Size(128, (3, 64, 64), 64),
            tiny=Size(8, (1, 8, 8), 8, rate=0.05),
            learnt=(Size(64, (1, 16, 16), 32, rate=0.0006), data.for_a_gan),
        ),
        classifier("convnext_tiny", "timm", "convnext_tiny"),
        classifier("efficientnet_b0", "timm", "efficientnet_b0"),
        classifier("mobilenet_v3_large", "torchvision", "mobilenet_v3_large"),
    )
}
