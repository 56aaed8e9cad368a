"""The losses of the models, as modules: `tritonconv.warmup` and torch.compile take them like any model."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class Loss(nn.Module):
    """The loss of a network whose outputs are compared with targets by `criterion`."""

    def __init__(self, network: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.criterion = network, criterion

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(self.network(images), targets)


class Discrimination(nn.Module):
    """The loss of a discriminator: it should tell images from what the generator makes of noise."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(self, noise: Tensor, images: Tensor) -> Tensor:
        real, made = self.discriminator(images), self.discriminator(self.generator(noise).detach())
        return against(real, 0.9) + against(made, 0.1)


class Generation(Discrimination):
    """The loss of a generator: the discriminator should take what it makes of noise for images."""

    def forward(self, noise: Tensor, images: Tensor) -> Tensor:
        return against(self.discriminator(self.generator(noise)), 0.9)


def against(logits: Tensor, wanted: float) -> Tensor:
    """Return the loss of logits that should mean `wanted`, which is never quite 0 or 1.

    So a discriminator that is always right does not grow without end, and the curves stay those of the seed.
    """
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))
