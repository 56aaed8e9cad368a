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

    Under autocast it is autocast's dtype, except that float64, complex and integer tensors keep their own. Without
    autocast, all tensors keep their own dtype.
    """
    device = tensor.device.type
    if autocasting(device) and may_be_cast(tensor):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def autocasting(device: str) -> bool:
    """Whether autocast is enabled for this type of device: "cpu", "cuda" and so on."""
    return has_autocast(device) and torch.is_autocast_enabled(device)


@torch.compiler.assume_constant_result  # torch 2.11's compiler can not trace the question
def has_autocast(device: str) -> bool:
    """Whether torch has autocast for this type of device. Devices without data, "meta", have none."""
    return torch.amp.is_autocast_available(device)


def autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in autocast's dtype, as torch's convolutions read them.

    Without autocast, return them as given. The reference must convert them itself, because autocast does not act on
    `unfold` and `fold`.
    """
    device = input.device.type
    if not autocasting(device):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return (
        input.to(dtype) if may_be_cast(input) else input,
        weight.to(dtype) if may_be_cast(weight) else weight,
        bias.to(dtype) if bias is not None and may_be_cast(bias) else bias,
    )


def may_be_cast(tensor: Tensor) -> bool:
    """Whether torch's convolutions convert `tensor` under autocast: not if it is float64, complex or of integers."""
    return tensor.is_floating_point() and tensor.dtype != torch.float64


def channels_last(input: Tensor, weight: Tensor, varies: str = "") -> bool:
    """Whether the convolution's result and gradients are channels_last: if the input or the weight is.

    torch has no memory format channels_last for a weight that varies. For such a weight, the input alone decides.
    """
    return strides_are_channels_last(input) or (not varies and strides_are_channels_last(weight))


def strides_are_channels_last(tensor: Tensor) -> bool:
    """Whether torch would call the memory format of this 4-d tensor channels_last.

    In the order c, w, h, b, each stride must be at least the previous stride times the previous extent. Axes of extent
    1 obey this, too. Gaps are allowed.

    The answer is no for an empty tensor and for a channel stride of 0. It is no, too, for one pixel of one channel with
    equal strides over c, w and h, which fits both formats. This is the rule by which torch suggests a memory format
    (`is_channels_last_strides_2d` in `c10/core/MemoryFormat.h`).
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
    """Return `result` in the memory format channels_last, or else contiguous. Copy it only if its strides differ.

    If there is one channel or one pixel, strides can be those of both formats, or others. So they are compared with
    those that torch gives a new tensor.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    _, C, H, W = (max(n, 1) for n in result.shape)
    strides = (H * W * C, 1, W * C, C) if channels_last else (C * H * W, H * W, W, 1)
    return result if result.stride() == strides else result.clone(memory_format=memory_format)


def widened(*tensors: Any) -> tuple[Any, ...]:
    """Return 16-bit tensors in float32, so that only the result of a sum is rounded to 16 bits. Others are unchanged.

    None may stand in the place of a tensor.
    """
    return tuple(t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def rounded_once(form: Form) -> Form:
    """Return `form`, a primitive, with 16-bit factors computed in float32, so that only its result is rounded.

    Functions that add a bias widen the factors before that, so that the result is rounded with the bias. Other dtypes
    are computed as they are. Autocast is off meanwhile: it would convert the factors back to 16 bits.
    """

    @wraps(form)
    def wide(first: Tensor, second: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype, device = first.dtype, first.device.type
        with torch.autocast(device, enabled=False) if has_autocast(device) else nullcontext():
            return form(*widened(first, second), *args, **kwargs).to(dtype)

    return wide
