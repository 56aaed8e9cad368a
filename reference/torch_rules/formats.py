"""The dtypes that a convolution computes in, and the memory formats of what it returns: torch's rules."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Form = Callable[..., Tensor]


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype torch's convolutions read `tensor` in: under autocast its dtype, but for float64 and complex."""
    device = tensor.device.type
    if autocasting(device) and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def autocasting(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands as torch's convolutions read them: `unfold` and `fold` are not on autocast's list."""
    if not autocasting(input.device.type):
        return input, weight, bias
    return (
        input.to(autocast_dtype(input)),
        weight.to(autocast_dtype(weight)),
        None if bias is None else bias.to(autocast_dtype(bias)),
    )


def channels_last(input: Tensor, weight: Tensor, varies: str = "") -> bool:
    """Whether a convolution of these, and its gradients, have the memory format channels_last: if either is.

    Of a weight that varies torch knows no such format, and the input decides.
    """
    return strides_are_channels_last(input) or (not varies and strides_are_channels_last(weight))


def strides_are_channels_last(tensor: Tensor) -> bool:
    """Whether the strides grow in the order c, w, h, b, gaps allowed; not so where one pixel or channel leaves it open.

    The rule by which torch suggests a memory format (`c10/core/MemoryFormat.h`).
    """
    sizes, strides = tensor.shape, tensor.stride()
    if strides[1] == 0 or 0 in sizes:
        return False
    least = 0
    for dim in (1, 3, 2, 0):
        if strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(sizes[dim], 1)
    return True


def laid_out(result: Tensor, channels_last: bool) -> Tensor:
    """`result` in the memory format that torch would give it."""
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def rounded_once(form: Form) -> Form:
    """Multiply and add 16-bit factors in float32, also under autocast, and round the result once."""

    @wraps(form)
    def wide(first: Tensor, second: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype, device = first.dtype, first.device.type
        if dtype in (torch.float16, torch.bfloat16):
            first, second = first.float(), second.float()
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return form(first, second, *args, **kwargs).to(dtype)

    return wide
