"""The `torch.vmap` rules of the operators: V convolutions become one larger convolution.

V is the extent of the mapped dimension.

- fprop and dgrad without a mapped weight: V joins the batch. If only the bias is mapped, there is one convolution.
- fprop and dgrad with a mapped weight: V joins the groups, so V convolutions with G groups become one with V*G groups.
- wgrad: V joins the groups, because there are V weights to compute.
- Any operator whose weight varies over samples: V joins the batch, which such a weight also has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tritonconv.bias import LETTERS
from tritonconv.geometry import Operator
from tritonconv.operators.autograd import OVERLOADS
from tritonconv.operators.library import library
from tritonconv.settings import Settings


def in_front(tensor: Tensor, dim: int | None, extent: int) -> Tensor:
    """Return a view of `tensor` with the mapped dimension `dim` first.

    If `dim` is None, the tensor is not mapped. It then gets a first dimension that is expanded to `extent`.
    """
    return tensor.expand(extent, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def into_channels(tensor: Tensor) -> Tensor:
    """Return a tensor (V, B, C, ...) in the shape (B, V*C, ...)."""
    return tensor.movedim(0, 1).flatten(1, 2)


def into_filters(weight: Tensor) -> Tensor:
    """Return a weight (V, ..., F, C, R, S) in the shape (..., V*F, C, R, S)."""
    return weight.movedim(0, -5).flatten(-5, -4)


def out_of_filters(weight: Tensor, extent: int) -> Tensor:
    """Return a weight (..., V*F, C, R, S) in the shape (V, ..., F, C, R, S), where V is `extent`."""
    filters: Tensor = weight.unflatten(-4, (extent, -1))
    return filters.movedim(-5, 0)


def rule(operator: Operator) -> Callable[..., tuple[Tensor, int]]:
    """Return the vmap rule of fprop or dgrad, whose second factor is the weight.

    The rule returns the result with the mapped dimension in front, and 0, the index of that dimension.
    """

    def mapped(
        info: Any, in_dims: tuple[Any, ...], first: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
    ) -> tuple[Tensor, int]:
        V, settings = info.batch_size, Settings.unpacked(*arguments)
        activations = in_front(first, in_dims[0], V)
        if "b" in settings.varies:
            samples = activations.shape[:2]
            biases = None if bias is None else for_each(bias, in_dims[2], V)
            if biases is not None:
                biases = biases.expand(*samples, *biases.shape[2:]).flatten(0, 1)
            weights = in_front(weight, in_dims[1], V).flatten(0, 1)
            return OVERLOADS[operator](activations.flatten(0, 1), weights, biases, *settings.packed).unflatten(
                0, samples
            ), 0
        if in_dims[1] is not None:
            weights = into_filters(in_front(weight, in_dims[1], V))
            biases = None if bias is None else in_front(bias, in_dims[2], V).flatten(0, 1)
            wider = settings._replace(groups=settings.groups * V)
            joined = OVERLOADS[operator](into_channels(activations), weights, biases, *wider.packed)
            return joined.unflatten(1, (V, -1)).movedim(1, 0), 0
        # A mapped bias is added afterwards, because all images of one batch share the bias.
        shared, own = (bias, None) if in_dims[2] is None else (None, bias)
        if in_dims[0] is None:
            result = in_front(OVERLOADS[operator](first, weight, shared, *settings.packed), None, V)
        else:
            joined = OVERLOADS[operator](activations.flatten(0, 1), weight, shared, *settings.packed)
            result = joined.unflatten(0, activations.shape[:2])
        if own is not None:
            each = for_each(own, in_dims[2], V)
            result = result + (each if each.ndim == result.ndim else each[..., None, None])
        return result, 0

    return mapped


def for_each(bias: Tensor, dim: int | None, V: int) -> Tensor:
    """Return the bias with the mapped and the batch dimension in front: (V, B, N) or (V, B, N, h, w).

    N is the number of channels of the result. B is 1 if the bias does not vary over samples.
    """
    each = in_front(bias, dim, V)
    return each if "b" in LETTERS[bias.ndim - (dim is not None)] else each[:, None]


def wgrad_rule(name: str) -> Callable[..., tuple[Any, Any]]:
    """Return the vmap rule of wgrad or wgrad_with_bias, whose factors are both activations.

    V joins the channels and the groups. If the weight varies over samples, V joins the batch instead. The rule returns
    the results with the mapped dimension in front, and a 0 for each, the index of that dimension.
    """

    def mapped(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *arguments: Any) -> tuple[Any, Any]:
        V, settings = info.batch_size, Settings.unpacked(*arguments)
        factors = [in_front(t, dim, V) for t, dim in zip((x, y), in_dims, strict=False)]
        if "b" in settings.varies:
            joined = OVERLOADS[name](*(t.flatten(0, 1) for t in factors), *settings.packed)
            return joined.unflatten(0, factors[0].shape[:2]), 0
        joined = OVERLOADS[name](*map(into_channels, factors), *settings._replace(groups=settings.groups * V).packed)
        if isinstance(joined, Tensor):
            return out_of_filters(joined, V), 0
        weight, bias = joined
        return (out_of_filters(weight, V), bias.unflatten(0, (V, -1))), (0, 0)

    return mapped


torch.library.register_vmap("tritonconv::fprop", rule("fprop"), lib=library)
torch.library.register_vmap("tritonconv::dgrad", rule("dgrad"), lib=library)
torch.library.register_vmap("tritonconv::wgrad", wgrad_rule("wgrad"), lib=library)
torch.library.register_vmap("tritonconv::wgrad_with_bias", wgrad_rule("wgrad_with_bias"), lib=library)
