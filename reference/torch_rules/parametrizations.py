"""Layers whose parametrized weights outlive a change of class.

`torch.nn.utils.parametrize` moves a parametrized tensor from the layer to the layer's `parametrizations`. In its place
it puts a property, into a class that it makes for this layer alone. Assigning another class to the layer drops the
properties, but keeps `parametrizations`.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


class Parametrizable(nn.Module):
    """The base class of layers that regain dropped properties when their parametrized tensors are first used.

    The layer's class then becomes what it would be if it had been changed before `parametrize` was applied.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "parametrizations":  # which `parametrize` reads before it changes the class
            restore(self)
        # Each read of a parameter comes here. This finds it as torch.nn.Module does, without a call.
        try:
            return self.__dict__["_parameters"][name]
        except KeyError:
            pass
        try:
            return super().__getattr__(name)
        except AttributeError:
            pass
        parametrizations = held(self)
        if name not in parametrizations:
            return super().__getattr__(name)
        if torch.compiler.is_compiling():
            return parametrizations[name]()
        restore(self)
        return getattr(type(self), name).__get__(self)  # getattr(self, name) would come back here if that fails

    def __setattr__(self, name: str, value: Any) -> None:
        if name in held(self):
            restore(self)
        super().__setattr__(name, value)


def held(layer: nn.Module) -> Any:
    """Return the layer's parametrizations, a mapping by the names of their tensors, or {} if it has none."""
    modules = layer.__dict__.get("_modules")
    found = modules and modules.get("parametrizations")  # most layers have no submodules
    return found if isinstance(found, nn.ModuleDict) else {}


def restore(layer: nn.Module) -> None:
    """Give the layer a class with the properties that were dropped, if any. torch.compile can not trace this: skip it.

    `parametrize` makes the class for a layer without data. As it is then assigned at once, several threads may do this.
    """
    before = type(layer)  # read once, because another thread may assign the new class
    if torch.compiler.is_compiling() or not held(layer):
        return
    if before.__module__ == parametrize.__name__:  # a class with properties
        return
    blank = nn.Module.__new__(before)
    nn.Module.__init__(blank)
    for name in [*held(layer)]:
        blank.register_buffer(name, torch.empty(0, device="meta"))
        parametrize.register_parametrization(blank, name, nn.Identity(), unsafe=True)
    layer.__class__ = type(blank)
