"""What can make a layer compute something else than the class of torch.nn from which it inherits: methods and hooks.

Who replaces a layer by another one with the same weight asks this first, because the new layer would not do the same.
"""

from typing import TypeVar

from torch import nn

Class = TypeVar("Class", bound=type[nn.Module])

# The methods that a call of a convolution runs.
METHODS = ("__call__", "_wrapped_call_impl", "_call_impl", "forward", "_forward", "_conv_forward", "_output_padding")
# What a call of a layer or its backward runs beside the methods, by the attribute of torch.nn.Module.
HOOKS = {
    "_forward_pre_hooks": "forward pre-hooks",
    "_forward_hooks": "forward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
    "_backward_hooks": "backward hooks",
}

_as_torch: set[type] = set()


def computes_as_torch(layer: Class) -> Class:
    """Mark a class, as its decorator: the methods that it overrides compute what its documentation says.

    For a convolution that is what torch.nn computes. A locally connected layer has no class in torch.nn.

    The mark is not inherited, because a subclass may override a method again.
    """
    _as_torch.add(layer)
    return layer


def why_not_as_torch(layer: nn.Module) -> str | None:
    """Return why `layer` does not compute what its class of torch.nn computes from the same weight, or None if it does.

    Each overridden method counts as a reason, unless `computes_as_torch` marks the class that overrides it.
    """
    return overridden(layer) or hooked(layer)


def overridden(layer: nn.Module) -> str | None:
    """Return which method of the computation a subclass of torch.nn's class overrides, or None."""
    for name in METHODS:
        if name in vars(layer):
            return f"`{name}` of this {type(layer).__name__} was replaced"
        owner = next((each for each in type(layer).__mro__ if name in vars(each)), None)
        if owner is not None and owner not in _as_torch and not owner.__module__.startswith("torch.nn.modules."):
            return f"`{name}` is overridden by the class {owner.__module__}.{owner.__qualname__}"
    return None


def hooked(layer: nn.Module) -> str | None:
    """Return which hooks the layer has, or None if it has none."""
    for attribute, kind in HOOKS.items():
        hooks = getattr(layer, attribute).values()
        if hooks:
            names = [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks]
            return f"this {type(layer).__name__} has {kind} ({', '.join(names)})"
    return None
