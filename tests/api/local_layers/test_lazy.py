"""Lazy locally connected layers take their channels and their size from the first input."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support.local_layers import BOTH, PACKAGES, SIZE, Module

pytestmark = pytest.mark.usefixtures("on_reference")


@PACKAGES
@BOTH
@pytest.mark.parametrize("bias", [True, "shared", False])
def test_lazy(package: Module, name: str, bias: Any) -> None:
    arguments = dict(kernel_size=(2, 3), stride=2, padding=1, groups=2, bias=bias)
    lazy, loaded = (getattr(package, f"Lazy{name}")(6, **arguments) for _ in range(2))
    assert isinstance(lazy.weight, nn.UninitializedParameter)
    torch.manual_seed(0)
    image = torch.randn(2, 4, *SIZE)
    torch.manual_seed(0)
    result = lazy(image)
    torch.manual_seed(0)
    eager = getattr(package, name)(4, 6, input_size=SIZE, **arguments)
    assert type(lazy) is type(eager) is getattr(package, name)
    assert torch.equal(result, eager(image))
    assert lazy.weight.stride() == eager.weight.stride()
    assert str(lazy) == str(eager)
    loaded.load_state_dict(eager.state_dict())
    assert torch.equal(loaded(image), result)
    assert loaded.weight.stride() == eager.weight.stride()
    assert lazy.state_dict().keys() == eager.state_dict().keys()


@PACKAGES
@BOTH
def test_a_lazy_layer_waits_for_an_input_that_it_can_take(package: Module, name: str) -> None:
    lazy = getattr(package, f"Lazy{name}")(6, 3, padding=3 if "Transpose" in name else 0, groups=2)
    with pytest.raises(RuntimeError, match=r"Kernel size can't be greater than|Output size is too small"):
        lazy(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        lazy(torch.zeros(1, 3, *SIZE))
    assert lazy(torch.zeros(1, 4, *SIZE)).shape[1] == 6


@PACKAGES
@BOTH
def test_a_lazy_layer_takes_no_parameters_of_another_shape(package: Module, name: str) -> None:
    """Loaded parameters of another shape are refused, even if they could be broadcast to the right shape."""
    trained = getattr(package, name)(1, 6, 3, (3, 3), padding=1)
    lazy = getattr(package, f"Lazy{name}")(6, 3, padding=1)
    lazy.load_state_dict(trained.state_dict())
    with pytest.raises(RuntimeError, match=r"expected weight of size .* but the loaded weight has size \["):
        lazy(torch.zeros(1, 4, *SIZE))
    assert lazy.weight.shape == trained.weight.shape
    assert torch.equal(lazy(torch.ones(1, 1, 3, 3)), trained(torch.ones(1, 1, 3, 3)))
    shared = getattr(package, name)(1, 6, 3, (3, 3), padding=1, bias="shared")
    lazy = getattr(package, f"Lazy{name}")(6, 3, padding=1)
    lazy.load_state_dict(shared.state_dict())
    with pytest.raises(RuntimeError, match=r"expected bias of size \[6, 3, 3\], but the loaded bias has size \[6\]"):
        lazy(torch.zeros(1, 1, 3, 3))
