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
    """A convolution whose arguments have been checked.

    `size` is the result's pixels, `pad` the leading padding, `channels_last` the memory format of result and gradients.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    size: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    groups: int
    channels_last: bool


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
    groups = integer("conv2d(): argument 'groups' must be int", groups)
    sizes = {"stride": stride, "dilation": dilation} | ({} if isinstance(padding, str) else {"padding": padding})
    numbers = {name: integers("conv2d", name, size) for name, size in sizes.items()}
    check_ranks("conv2d", input, weight)
    strides, dilations = pair("stride", numbers), pair("dilation", numbers)
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
        pad = pair("padding", numbers)
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
    check_same("bias", input, bias)
    check_multiplied("conv2d", input)
    check_same("weight", input, weight)
    size = (room[0] // strides[0] + 1, room[1] // strides[1] + 1)
    return Call(*autocast(x, weight, bias), size, strides, pad, dilations, groups, channels_last(x, weight))


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
    groups = integer("conv_transpose2d(): argument 'groups' must be int", groups)
    sizes = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    numbers = {name: integers("conv_transpose2d", name, size) for name, size in sizes.items()}
    check_ranks("conv_transpose2d", input, weight)
    strides, pad, extra, dilations = (pair(name, numbers) for name in sizes)
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
    check_multiplied("conv_transpose2d", input)
    check_same("weight", input, weight)
    check_same("bias", input, bias)
    operands = autocast(y, weight, bias)
    return Call(*operands, (size[0], size[1]), strides, pad, dilations, groups, channels_last(y, weight))


def integer(expected: str, value: int) -> int:
    """`value` as an int; else TypeError. Symbolic sizes, which `torch.compile` traces with, pass through."""
    if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
        return value
    if hasattr(value, "__index__") and not isinstance(value, bool):
        return index(value)
    raise TypeError(f"{expected}, not {type(value).__name__}")


def integers(function: str, name: str, value: Ints) -> tuple[int, ...]:
    """`value` as a tuple: an int, or a list or tuple of them."""
    expected = f"{function}(): argument '{name}' must be tuple of ints"
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(integer(expected, v) for v in values)


def pair(name: str, numbers: dict[str, tuple[int, ...]]) -> Pair:
    """The numbers of that name for both axes, of which there must be one or two."""
    values = numbers[name]
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values to match the convolution dimensions, "
            f"but got {name}={list(values)}"
        )
    return values[0], values[-1]


def check_tensors(function: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, value in (("input", input), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(value).__name__}")
    if not (bias is None or isinstance(bias, Tensor)):
        raise TypeError(f"{function}(): argument 'bias' must be Tensor, not {type(bias).__name__}")


def check_ranks(function: str, input: Tensor, weight: Tensor) -> None:
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: {list(input.shape)}"
        )
    if weight.ndim != 4:
        size = [1, *input.shape] if input.ndim == 3 else list(input.shape)
        raise RuntimeError(
            f"Expected {weight.ndim}-dimensional input for {weight.ndim}-dimensional weight{list(weight.shape)}, "
            f"but got 4-dimensional input of size {size} instead"
        )


def check_positive(**values: Sequence[int]) -> None:
    for name, numbers in values.items():
        if min(numbers) <= 0:
            raise RuntimeError(f"non-positive {name} is not supported: {name} should be greater than zero")


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
    if min(input.shape[1:]) == 0:
        raise RuntimeError(f"Only zero batch inputs are supported, but got input shape: {list(input.shape)}")


def check_multiplied(function: str, input: Tensor) -> None:
    """torch has no sums of products of truth values."""
    if input.dtype == torch.bool:
        raise NotImplementedError(f"\"{function}\" not implemented for 'Bool'")


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


def channels_last(*factors: Tensor) -> bool:
    """Whether torch gives a convolution of these, and its gradients, the memory format channels_last: if any is."""
    return any(strides_are_channels_last(factor) for factor in factors)


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


def padded(layer: nn.Conv2d, input: Tensor) -> tuple[Tensor, str | tuple[int, ...]]:
    """The input of a Conv2d padded as its `padding_mode` says, and the padding that is left for the convolution."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return nn.functional.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), (0, 0)


def output_padding(layer: nn.ConvTranspose2d, input: Tensor, output_size: list[int] | None) -> list[int]:
    """The output padding of a ConvTranspose2d, or that which makes its result `output_size`; else ValueError."""
    if layer.padding_mode != "zeros":
        raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
    assert isinstance(layer.padding, tuple), "self.padding must be a tuple"
    sizes: Any = (layer.stride, layer.padding, layer.kernel_size, 2, layer.dilation)
    return layer._output_padding(input, output_size, *sizes)


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
