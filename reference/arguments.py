"""What torch's convolutions accept, and what they say of the rest.

Ints, pairs and padding strings become pairs, an image without a batch gets one, dtypes follow autocast, and every call
that torch refuses is refused here in its words. This is the one place that does so, for both implementations.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Pair = tuple[int, int]
Ints = int | Sequence[int]
Form = Callable[..., Tensor]


class Call(NamedTuple):
    """A convolution whose arguments have been checked. `pad` is the leading padding, `size` the other side's pixels."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    size: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    groups: int


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
) -> Call:
    """Check the arguments of `torch.nn.functional.conv2d`; `size` is that of its output.

    Raises TypeError, RuntimeError or NotImplementedError where torch does.
    """
    check_tensors("conv2d", input, weight, bias)
    strides = pair("stride", stride)
    dilations = pair("dilation", dilation)
    groups = integer("groups", groups)
    total: Pair
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        if padding == "same" and strides != (1, 1):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        R, S = weight.shape[2:]
        total = (dilations[0] * (R - 1), dilations[1] * (S - 1)) if padding == "same" else (0, 0)
        pad = (total[0] // 2, total[1] // 2)
    else:
        pad = pair("padding", padding)
        total = (2 * pad[0], 2 * pad[1])
    check_positive(groups=(groups,), stride=strides, dilation=dilations)
    check_not_negative(padding=total)
    x = input if input.ndim == 4 else input.unsqueeze(0)
    check_weight(weight, groups)
    if x.shape[1] != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have "
            f"{weight.shape[1] * groups} channels, but got {x.shape[1]} channels instead"
        )
    check_bias(bias, weight, weight.shape[0], "")
    extent = (x.shape[2] + total[0], x.shape[3] + total[1])
    room = tuple(extent[i] - dilations[i] * (weight.shape[2 + i] - 1) - 1 for i in (0, 1))
    if min(room) < 0:
        kernel = tuple(dilations[i] * (weight.shape[2 + i] - 1) + 1 for i in (0, 1))
        raise RuntimeError(
            f"Calculated padded input size per channel: ({extent[0]} x {extent[1]}). Kernel size: "
            f"({kernel[0]} x {kernel[1]}). Kernel size can't be greater than actual input size"
        )
    check_not_empty(x)
    check_same("weight", input, weight)
    check_same("bias", input, bias)
    size = (room[0] // strides[0] + 1, room[1] // strides[1] + 1)
    return Call(*autocast(x, weight, bias), size, strides, pad, dilations, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Call:
    """Check the arguments of `torch.nn.functional.conv_transpose2d`; `size` is that of its output.

    Raises TypeError, RuntimeError or NotImplementedError where torch does.
    """
    check_tensors("conv_transpose2d", input, weight, bias)
    strides = pair("stride", stride)
    pad = pair("padding", padding)
    extra = pair("output_padding", output_padding)
    dilations = pair("dilation", dilation)
    groups = integer("groups", groups)
    check_positive(groups=(groups,), stride=strides, dilation=dilations)
    check_not_negative(padding=pad, output_padding=extra)
    y = input if input.ndim == 4 else input.unsqueeze(0)
    check_weight(weight, groups)
    if y.shape[1] != weight.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(y.shape)} to have "
            f"{weight.shape[0]} channels, but got {y.shape[1]} channels instead"
        )
    check_bias(bias, weight, weight.shape[1] * groups, "transposed=1, ")
    if any(extra[i] >= strides[i] and extra[i] >= dilations[i] for i in (0, 1)):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding_height: {extra[0]} output_padding_width: {extra[1]} stride_height: {strides[0]} "
            f"stride_width: {strides[1]} dilation_height: {dilations[0]} dilation_width: {dilations[1]}"
        )
    check_not_empty(y)
    size = tuple(
        (y.shape[2 + i] - 1) * strides[i] - 2 * pad[i] + dilations[i] * (weight.shape[2 + i] - 1) + 1 + extra[i]
        for i in (0, 1)
    )
    if min(size) < 0:
        raise RuntimeError(
            f"Given input size per channel: ({y.shape[2]} x {y.shape[3]}). Calculated output size per channel: "
            f"({size[0]} x {size[1]}). Output size is too small"
        )
    check_same("weight", input, weight)
    check_same("bias", input, bias)
    return Call(*autocast(y, weight, bias), (size[0], size[1]), strides, pad, dilations, groups)


def integer(name: str, value: int) -> int:
    """`value` as an int. Symbolic sizes, which `torch.compile` traces with, pass through."""
    if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
        return value
    if isinstance(value, bool | float | str) or value is None:
        raise TypeError(f"argument '{name}' must be int, not {type(value).__name__}")
    return index(value)


def pair(name: str, value: Ints) -> Pair:
    """`value` for both axes: an int, or a sequence of one or two."""
    if not isinstance(value, Sequence):
        both = integer(name, value)
        return both, both
    if isinstance(value, str):
        raise TypeError(f"argument '{name}' must be tuple of ints, not str")
    values = [integer(name, v) for v in value]
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values to match the convolution dimensions, "
            f"but got {name}={values}"
        )
    return values[0], values[-1]


def check_tensors(function: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, value in (("input", input), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(value).__name__}")
    if not (bias is None or isinstance(bias, Tensor)):
        raise TypeError(f"{function}(): argument 'bias' must be Tensor, not {type(bias).__name__}")
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: {list(input.shape)}"
        )
    if weight.ndim != 4:
        raise RuntimeError(f"Expected 4D weight for {function}, but got weight of size: {list(weight.shape)}")


def check_positive(**values: Sequence[int]) -> None:
    for name, numbers in values.items():
        if min(numbers) <= 0:
            raise RuntimeError(f"non-positive {name} is not supported")


def check_not_negative(**values: Sequence[int]) -> None:
    for name, numbers in values.items():
        if min(numbers) < 0:
            raise RuntimeError(f"negative {name} is not supported")


def check_weight(weight: Tensor, groups: int) -> None:
    """Its first dimension must hold every group, equally often, and it must have taps."""
    size = list(weight.shape)
    if weight.shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, "
            f"but got weight of size {size} instead"
        )
    if weight.shape[0] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {size} instead"
        )
    if min(weight.shape[2:]) == 0:
        raise RuntimeError(f"Kernel size should be greater than zero, but got weight of size {size}")


def check_bias(bias: Tensor | None, weight: Tensor, channels: int, given: str) -> None:
    if bias is not None and tuple(bias.shape) != (channels,):
        raise RuntimeError(
            f"Given {given}weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )


def check_not_empty(input: Tensor) -> None:
    """An empty batch is a legal input; an image without pixels or channels is not."""
    if input.shape[0] != 0 and min(input.shape[1:]) == 0:
        raise RuntimeError(f"Only zero batch inputs are supported, but got input shape: {list(input.shape)}")


def check_same(name: str, input: Tensor, other: Tensor | None) -> None:
    """One dtype and one device, unless autocast is about to settle the dtype."""
    if other is None:
        return
    if input.device != other.device:
        raise RuntimeError(
            f"Input type ({input.dtype} on {input.device}) and {name} type ({other.dtype} on {other.device}) "
            "should be the same"
        )
    if autocast_dtype(input) != autocast_dtype(other):
        raise RuntimeError(f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same")


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype torch's convolutions read `tensor` in: under autocast its dtype, but for float64 and complex."""
    device = tensor.device.type
    if (
        tensor.is_floating_point()
        and tensor.dtype != torch.float64
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    ):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands as torch's convolutions read them: `unfold` and `fold` are not on autocast's list."""
    return (
        input.to(autocast_dtype(input)),
        weight.to(autocast_dtype(weight)),
        None if bias is None else bias.to(autocast_dtype(bias)),
    )


def padded(layer: nn.Conv2d, input: Tensor) -> tuple[Tensor, str | tuple[int, ...]]:
    """The input of a Conv2d padded as its `padding_mode` says, and the padding that is left for the convolution."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return nn.functional.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), (0, 0)


def output_padding(layer: nn.ConvTranspose2d, input: Tensor, output_size: list[int] | None) -> list[int]:
    """The output padding of a ConvTranspose2d, or that which makes its result `output_size`; else ValueError."""
    stride, padding, kernel, dilation = (
        [int(n) for n in sizes] for sizes in (layer.stride, layer.padding, layer.kernel_size, layer.dilation)
    )
    return layer._output_padding(input, output_size, stride, padding, kernel, 2, dilation)


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
