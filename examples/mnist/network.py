"""The network that `train.py` trains: a classifier of digits that also reconstructs the image."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import tritonconv

Module = TypeVar("Module", bound=nn.Module)


class Network(nn.Module):
    """From an image (B, 1, size, size), compute logits (B, 10) and a reconstruction of the image.

    An encoder of convolutions makes a code (B, 64, 1, 1). A linear layer classifies the code. A decoder of transposed
    convolutions draws the image again from the code.

    `size` is in pixels and divisible by 4. The layers are torch.nn's if `implementation` is "torch", else tritonconv's.
    Both have the same constructors, so the same seed gives the same weights.
    """

    def __init__(self, implementation: str, size: int) -> None:
        super().__init__()
        layers = nn if implementation == "torch" else tritonconv
        Conv2d, ConvTranspose2d = layers.Conv2d, layers.ConvTranspose2d
        # SiLU is smooth. A rounding error can switch a ReLU on or off near zero, and then the gradients of two correct
        # implementations differ by more than rounding.
        self.encoder = nn.Sequential(
            Conv2d(1, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            Conv2d(32, 64, size // 4),
            nn.SiLU(),
        )
        self.classifier = nn.Linear(64, 10)
        self.decoder = nn.Sequential(
            ConvTranspose2d(64, 32, size // 4),
            nn.SiLU(),
            ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.SiLU(),
            ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )
        choose(implementation, self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the reconstruction of `images`."""
        code = self.encoder(images)
        return self.classifier(code.flatten(1)), self.decoder(code)


def loss_of(logits: Tensor, reconstruction: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the labels plus 10 times the mean squared error of the pixels.

    Without the factor, the error of the pixels would be much the smaller of the two.
    """
    return cross_entropy(logits, labels) + 10 * mse_loss(reconstruction, images)


def build(implementation: str, size: int, device: torch.device, dtype: torch.dtype) -> Network:
    """Return an untrained network on `device`, in the dtype and memory format of `placed`."""
    return placed(Network(implementation, size), device, dtype)


def choose(implementation: str, network: nn.Module) -> None:
    """Set the attribute `implementation` of every tritonconv layer in `network`. "auto" changes nothing."""
    for layer in network.modules():
        if hasattr(layer, "implementation") and implementation != "auto":
            setattr(layer, "implementation", implementation)  # noqa: B010 - nn.Module's attributes have other types


def placed(network: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """Move `network` to `device`, in the dtype `wide(dtype)`, and to channels_last on a GPU. Return it."""
    network.to(device, wide(dtype))
    if device.type == "cuda":
        # Tensor cores are fed faster if the channels of a pixel are adjacent. Outputs take the format of the weights.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context for mixed precision in `dtype`. It does nothing if `dtype` is not float16 or bfloat16."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(device.type, dtype if narrow else None, enabled=narrow)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of weights and images: float64 if `dtype` is that, else float32.

    Autocast handles a 16-bit `dtype`.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32
