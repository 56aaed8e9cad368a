"""Makes tritonconv compute the convolutions of a model. Its parameters and buffers stay as they are."""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

import tritonconv
from tritonconv import reference
from tritonconv.reference.torch_rules.overrides import overridden

# Each class of tritonconv by the class in whose place it computes the same.
LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: tritonconv.Conv2d,
    nn.ConvTranspose2d: tritonconv.ConvTranspose2d,
    reference.LocallyConnected2d: tritonconv.LocallyConnected2d,
}


def convert(model: nn.Module, implementation: str | None = None) -> int:
    """Replace the class of each convolution and locally connected layer in `model`. Return how many there are.

    `implementation` becomes the attribute of that name of each layer: "triton" makes a layer raise where its kernels
    can not run, and None leaves the choice to tritonconv.

    Raises:
        ValueError: A convolution would be left, because tritonconv has none of its class, or because its class
            overrides what torch computes. In this case the model does not change.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _ConvNd)}
    left = [f"{name or 'the model'} ({why})" for name, layer in layers.items() if (why := why_left(layer))]
    if left:
        raise ValueError(f"{len(left)} of {len(layers)} convolutions can not be converted: {', '.join(left)}")
    for layer in layers.values():
        layer.__class__ = ours(layer)  # type: ignore[assignment]
        setattr(layer, "implementation", implementation)  # noqa: B010 - nn.Module's attributes have other types
    return len(layers)


def ours(layer: nn.Module) -> type[nn.Module] | None:
    """Return the class of tritonconv that computes what the layer's class does; None if there is none."""
    return next((mine for theirs, mine in LAYERS.items() if isinstance(layer, theirs)), None)


def why_left(layer: nn.Module) -> str | None:
    """Return why the class of a layer can not be replaced, or None if it can."""
    if isinstance(layer, LazyModuleMixin) or ours(layer) is None:
        return f"tritonconv has no layer like {type(layer).__name__}"
    if type(layer) in (*LAYERS, *LAYERS.values()):
        return None
    return overridden(layer)
