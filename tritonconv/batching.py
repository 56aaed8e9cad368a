"""How `torch.vmap` maps over the operators: V convolutions are one larger convolution.

Over activations alone V joins the batch. Over a weight it joins the groups: V convolutions of G groups are one of V*G.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tritonconv.autograd import CALLS
from tritonconv.geometry import Operator
from tritonconv.ops import library


def in_front(tensor: Tensor, dim: int | None, extent: int) -> Tensor:
    """`tensor` with the mapped dimension first; expanded to it, if it was not mapped over."""
    return tensor.expand(extent, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def into_channels(tensor: Tensor) -> Tensor:
    """(V, B, C, ...) -> (B, V*C, ...)."""
    return tensor.movedim(0, 1).flatten(1, 2)


def rule(operator: Operator) -> Callable[..., tuple[Tensor, int]]:
    """The rule for fprop and dgrad, whose second factor is the weight."""

    def mapped(
        info: Any, in_dims: tuple[Any, ...], first: Tensor, weight: Tensor, bias: Tensor | None, *sampling: Any
    ) -> tuple[Tensor, int]:
        V = info.batch_size
        *sizes, groups, implementation = sampling
        activations = in_front(first, in_dims[0], V)
        if in_dims[1] is None:
            joined = CALLS[operator](activations.flatten(0, 1), weight, None, *sampling)
            result = joined.unflatten(0, activations.shape[:2])
        else:
            weights = in_front(weight, in_dims[1], V).flatten(0, 1)
            joined = CALLS[operator](into_channels(activations), weights, None, *sizes, groups * V, implementation)
            result = joined.unflatten(1, (V, -1)).movedim(1, 0)
        if bias is not None:
            result = result + in_front(bias, in_dims[2], V)[:, None, :, None, None]
        return result, 0

    return mapped


def wgrad_rule(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *sampling: Any) -> tuple[Tensor, int]:
    *sizes, groups, implementation = sampling
    image, features = (in_front(t, dim, info.batch_size) for t, dim in zip((x, y), in_dims, strict=False))
    joined = CALLS["wgrad"](
        into_channels(image), into_channels(features), *sizes, groups * info.batch_size, implementation
    )
    return joined.unflatten(0, (info.batch_size, -1)), 0


torch.library.register_vmap("tritonconv::fprop", rule("fprop"), lib=library)
torch.library.register_vmap("tritonconv::dgrad", rule("dgrad"), lib=library)
torch.library.register_vmap("tritonconv::wgrad", wgrad_rule, lib=library)
