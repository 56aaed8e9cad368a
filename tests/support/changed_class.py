"""Layers of torch.nn that become ours, changed by torch's utilities before or after that, and what a step gives."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Change = Callable[[Any], Any]

torch.manual_seed(0)
x = torch.randn(2, 4, 5, 5)


class Scaled(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return original * 2

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


def scaled(layer: Any, *names: str) -> Any:
    for name in names or ("weight",):
        parametrize.register_parametrization(layer, name, Scaled())
    return layer


def pair(ours: ModuleType, name: str, change: Change) -> list[Any]:
    """Return two equal layers of ours that were torch's: one changed before its class was, and one after that."""
    layers = []
    for before in (True, False):
        torch.manual_seed(1)
        layer = getattr(nn, name)(4, 6, 3)
        if before:
            layer = change(layer)
        layer.__class__ = getattr(ours, name)
        layers.append(layer if before else change(layer))
    return layers


def seen(layer: Any, given: Tensor = x) -> dict[str, Any]:
    """Return what a step of the layer gives, and then the layer's class and state."""
    result = layer(given)
    layer.zero_grad()
    result.square().sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    classes = [each.__name__ for each in type(layer).__mro__]
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    return dict(result=result, gradients=gradients, names=names, classes=classes, state=state, said=repr(layer))


def assert_same(left: Any, right: Any) -> None:
    """Assert that values, tensors in lists and dicts among them, are equal."""
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert [*left] == [*right]
        assert_same([*left.values()], [*right.values()])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right
