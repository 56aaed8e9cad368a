"""What the checks of CUDA graphs train: a small network on static tensors, and how results are compared."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tritonconv


@dataclass(frozen=True)
class Problem:
    """What the checks run on. Defaults are for a GPU: layers of 64 channels use TMA.

    `overwritten` is the size, in bytes, of the largest tensors that overwrite freed memory.
    """

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    channels: int = 64
    size: int = 16
    overwritten: int = 2**24

    def drawn(self, *shape: int, integers: bool = False) -> Tensor:
        """Return random numbers, in channels_last if there are four axes. Integers are from -2 to 2."""
        numbers = torch.randint(-2, 3, shape).float() if integers else torch.randn(shape)
        memory_format = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return numbers.to(self.device, self.dtype, memory_format=memory_format)

    def placed(self, module: nn.Module) -> nn.Module:
        return module.to(self.device, self.dtype, memory_format=torch.channels_last)

    def network(self) -> nn.Module:
        """Return a model whose first layer gathers pixels, and whose others use TMA if there are enough channels."""
        channels = self.channels
        layers = (
            tritonconv.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            tritonconv.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            tritonconv.ConvTranspose2d(channels, channels, 2, stride=2),
        )
        return self.placed(nn.Sequential(*layers))

    def image(self, integers: bool = False) -> Tensor:
        return self.drawn(2, 3, self.size, self.size, integers=integers)

    def target(self, integers: bool = False) -> Tensor:
        """Return a tensor of the shape of the network's result."""
        return self.drawn(2, self.channels, 2 * self.size, 2 * self.size, integers=integers)

    def layer(self) -> nn.Module:
        return self.placed(tritonconv.Conv2d(self.channels, self.channels, 3, padding=1))

    def input(self, images: int = 2) -> Tensor:
        return self.drawn(images, self.channels, self.size, self.size)


ON_GPU = Problem()


class Training:
    """A model that is trained on static tensors, into which the batches are copied."""

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        self.model, self.x, self.target = model, problem.image(), problem.target()
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.1, momentum=0.9)

    def step(self) -> list[Tensor]:
        """Return the result, the loss and the gradients of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        y = self.model(self.x)
        loss = (y.float() - self.target.float()).square().mean()
        loss.backward()
        self.optimizer.step()
        return [y.detach(), loss.detach(), *(parameter.grad for parameter in self.parameters)]

    def feed(self, batch: tuple[Tensor, Tensor]) -> None:
        self.x.copy_(batch[0])
        self.target.copy_(batch[1])


def assert_same_bits(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    """Assert that tensors are equal, and that there are numbers in them other than 0."""
    assert len(found) == len(expected) > 0
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.shape == other.shape, f"{what}: tensor {number}"
        assert torch.equal(one, other), f"{what}: tensor {number} of {len(found)} differs"
        assert bool(other.isfinite().all()), f"{what}: tensor {number} is not finite"
        assert bool(other.any()), f"{what}: tensor {number} is zero"
