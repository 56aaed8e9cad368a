"""Parameters and helpers that the tests of locally connected layers share."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tritonconv import reference

Module = Any
PACKAGES = pytest.mark.parametrize("package", [reference, tritonconv], ids=lambda package: package.__name__)
BOTH = pytest.mark.parametrize("name", ["LocallyConnected2d", "LocallyConnectedTranspose2d"])
# Constructor arguments, without channels and image size, of layers with shared weights and of local layers.
ARGUMENTS = [
    dict(kernel_size=3),
    dict(kernel_size=(2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
    dict(kernel_size=[3, 2], stride=[2, 3], padding=1, bias=False),
]
SIZE = (7, 6)
# An image size that equals no other dimension, so that a mixed-up dimension shows.
INPUT_SIZE = (5, 7)


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random integers from -3 to 3. In float32 and float64, sums of their products are exact."""
    return torch.randint(-3, 4, shape).to(dtype)


def filled(module: Any) -> Any:
    """Fill every parameter of `module` with random integers (`integers`), in place, and return `module`."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(integers(*parameter.shape))
    return module


def kept(layer: Any) -> dict[str, Tensor]:
    """Return the layer's state_dict with a copy of each tensor."""
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Assert that two state_dicts have the same names in the same order, with the same values."""
    assert list(state) == list(other)
    assert all(torch.equal(state[name], other[name]) for name in state)
