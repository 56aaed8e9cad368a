"""Trainings of a small network by the fast path and by the long way, which must give the same bits."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.fast_path import same_bits
from tests.support.ways import without_fast_path
from tritonconv.fast_path import forward, function
from tritonconv.launch import bounded_cache
from tritonconv.operators import autograd

STEPS = 3
# For each step, how many calls of the two layers of `network` go the long way forward, and how many backward. A
# backward pass is kept in the second step, because only a call on the fast path has a backward pass to keep.
FAST = [[2, 2], [0, 2], [0, 0]]
LONG = [[2, 2]] * STEPS


def network(device: str = "cpu") -> nn.Sequential:
    """Return two layers with an activation between them, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(tritonconv.Conv2d(3, 4, 3), nn.ReLU(), tritonconv.ConvTranspose2d(4, 2, 2)).to(device)


def images(number: int, device: str = "cpu") -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(number)).to(device)


class Trained(NamedTuple):
    """What a training gave: after each step, its tensors, and how many calls took the long way (as in `FAST`)."""

    tensors: list[list[Tensor]]
    long_ways: list[list[int]]

    def same_bits(self, other: "Trained") -> bool:
        """Whether both have the same bits after each step. A step must have more than one tensor."""
        assert len(self.tensors) == STEPS
        return all(len(a) > 1 and same_bits(a, b) for a, b in zip(self.tensors, other.tensors, strict=True))


# Takes a step by its number, and returns its result and all weights after it.
Step = Callable[[int], list[Tensor]]


def trained(begin: Callable[[], Step], fast: bool = True) -> Trained:
    """Take three steps with what `begin` returns, from empty caches, by the fast path where it may be taken, or not."""
    found, counts = Trained([], []), [0, 0]

    def counted(way: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[place] += 1
            return way(*arguments)

        return call

    bounded_cache.clear()
    with pytest.MonkeyPatch.context() as patch, nullcontext() if fast else without_fast_path():
        patch.setattr(forward, "checked_and_computed", counted(forward.checked_and_computed, 0))
        for module in (function, autograd):
            patch.setattr(module, "pull_back", counted(module.pull_back, 1))
        step = begin()
        for number in range(STEPS):
            counts[:] = 0, 0
            found.tensors.append([each.detach().clone() for each in step(number)])
            found.long_ways.append(counts.copy())
    return found


def stepping(model: nn.Module, device: str = "cpu", optimizer: torch.optim.Optimizer | None = None) -> Step:
    """Return a step of a model: forward, backward and an optimizer, which is SGD with momentum unless one is passed."""
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(number: int) -> list[Tensor]:
        y = model(images(number, device))
        y.square().mean().backward()
        chosen.step()
        chosen.zero_grad()
        return [y, *model.parameters()]

    return step
