"""The network that the example trains: it reads a digit and draws it again."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import tritonconv

Module = TypeVar("Module", bound=nn.Module)


class Network(nn.Module):
    """Image (B, 1, size, size) -> code (B, 64, 1, 1) -> logits (B, 10) and a reconstruction of the image.

    `size` is in pixels and divisible by 4. The layers are torch.nn's if `implementation` is "torch", else tritonconv's,
    which are constructed alike: the same seed gives the same weights.
    """

    def __init__(self, implementation: str, size: int) -> None:
        super().__init__()
        layers = nn if implementation == "torch" else tritonconv
        Conv2d, ConvTranspose2d = layers.Conv2d, layers.ConvTranspose2d
        # SiLU is smooth. A ReLU near zero is switched by a rounding error, and then the gradients of two correct
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
        code = self.encoder(images)
        return self.classifier(code.flatten(1)), self.decoder(code)


def loss_of(logits: Tensor, reconstruction: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the labels plus mean squared error of the pixels, which is much smaller, hence the factor."""
    return cross_entropy(logits, labels) + 10 * mse_loss(reconstruction, images)


def build(implementation: str, size: int, device: torch.device, dtype: torch.dtype) -> Network:
    """The network on `device`, in the dtype and memory format that suit it."""
    return placed(Network(implementation, size), device, dtype)


def choose(implementation: str, network: nn.Module) -> None:
    """Have the layers of tritonconv run as `implementation`. "auto" leaves them as they are."""
    for layer in network.modules():
        if hasattr(layer, "implementation") and implementation != "auto":
            setattr(layer, "implementation", implementation)  # noqa: B010 - nn.Module's attributes have other types


def placed(network: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """`network` on `device`, in the dtype and memory format that suit it."""
    network.to(device, wide(dtype))
    if device.type == "cuda":
        # Tensor cores want the channels of a pixel side by side. The outputs follow the format of the weights.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision for the 16-bit dtypes, nothing for the others."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(device.type, dtype if narrow else None, enabled=narrow)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights and images: under autocast they stay in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
