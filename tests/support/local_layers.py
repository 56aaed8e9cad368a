"""What the tests of locally connected layers share: the packages, the two layers, arguments and a size of images."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tritonconv import reference

Module = Any
PACKAGES = pytest.mark.parametrize("package", [reference, tritonconv], ids=lambda package: package.__name__)
BOTH = pytest.mark.parametrize("name", ["LocallyConnected2d", "LocallyConnectedTranspose2d"])
# Shared and local layers of the same arguments.
ARGUMENTS = [
    dict(kernel_size=3),
    dict(kernel_size=(2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
    dict(kernel_size=[3, 2], stride=[2, 3], padding=1, bias=False),
]
SIZE = (7, 6)
# A size with which no dimension can be taken for another.
INPUT_SIZE = (5, 7)


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-3, 4, shape).to(dtype)


def filled(module: Any) -> Any:
    """`module` with other integers in every parameter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(integers(*parameter.shape))
    return module


def kept(layer: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(state) == list(other)
    assert all(torch.equal(state[name], other[name]) for name in state)
