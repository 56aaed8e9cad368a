"""torch's rules for the dtype that a convolution computes in and the memory format of its result."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Form = Callable[..., Tensor]


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to which torch's convolutions convert `tensor`.

    Under autocast it is autocast's dtype, except that float64, complex and integer tensors keep their own.
    """
    device = tensor.device.type
    if autocasting(device) and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def autocasting(device: str) -> bool:
    """Whether autocast is enabled for this type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in autocast's dtype, as torch's convolutions read them.

    The reference must convert them itself, because autocast does not act on `unfold` and `fold`.
    """
    if not autocasting(input.device.type):
        return input, weight, bias
    return (
        input.to(autocast_dtype(input)),
        weight.to(autocast_dtype(weight)),
        None if bias is None else bias.to(autocast_dtype(bias)),
    )


def channels_last(input: Tensor, weight: Tensor, varies: str = "") -> bool:
    """Whether the convolution's result and gradients are channels_last: if input or weight is.

    torch has no such format for a weight that varies. There the input alone decides.
    """
    return strides_are_channels_last(input) or (not varies and strides_are_channels_last(weight))


def strides_are_channels_last(tensor: Tensor) -> bool:
    """Whether torch would call the memory format of this 4-d tensor channels_last.

    The strides must grow in the order c, w, h, b, also along axes of extent 1. Gaps are allowed. One pixel of one
    channel with equal strides fits both formats, and the answer is no. This is the rule by which torch suggests a
    memory format (`c10/core/MemoryFormat.h`).
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
    """Return `result` in the memory format channels_last, or else contiguous."""
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def rounded_once(form: Form) -> Form:
    """Decorate a primitive so that it computes 16-bit factors in float32 and rounds only its result.

    Autocast is off meanwhile: it would convert the factors back to 16 bits.
    """

    @wraps(form)
    def wide(first: Tensor, second: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype, device = first.dtype, first.device.type
        if dtype in (torch.float16, torch.bfloat16):
            first, second = first.float(), second.float()
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return form(first, second, *args, **kwargs).to(dtype)

    return wide
