"""Checks of arguments. Each raises torch's exception with torch's words, or returns a normalised value.

The checks of weights that vary, which torch does not have, are written in the same style.
"""

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from tritonconv.reference.torch_rules.formats import autocast_dtype

Pair = tuple[int, int]
Ints = int | Sequence[int]


def integer(expected: str, value: int) -> int:
    """Return `value` as an int. Symbolic sizes, which `torch.compile` traces with, pass through unchanged.

    Raise TypeError if `value` is a bool or has no `__index__`. The message starts with `expected`. Raise ValueError if
    it takes more than 64 bits.
    """
    if isinstance(value, torch.SymInt):
        return value
    if type(value) is not int:
        if not hasattr(value, "__index__") or isinstance(value, bool):
            raise TypeError(f"{expected}, not {type(value).__name__}")
        value = index(value)
    if not -(2**63) <= value < 2**63:
        raise ValueError("Overflow when unpacking long long")
    return value


def integers(function: str, name: str, value: Ints) -> tuple[int, ...]:
    """Return `value`, an int or a list or tuple of ints, as a tuple.

    Raise TypeError if it is anything else, or if an entry takes more than 64 bits. Raise ValueError if it is a single
    int of more than 64 bits.
    """
    expected = f"{function}(): argument '{name}' must be tuple of ints"
    values: Sequence[Any] = value if isinstance(value, list | tuple) else (value,)
    found: list[int] = []
    for position, entry in enumerate(values, 1):
        try:
            found.append(integer(expected, entry))
        except ValueError as error:
            if values is not value:
                raise
            raise TypeError(
                f"{function}(): argument '{name}' failed to unpack the object at pos {position} with error \"{error}\""
            ) from error
    return tuple(found)


def pair(name: str, numbers: dict[str, tuple[int, ...]]) -> Pair:
    """Return `numbers[name]` as (rows, columns). A single entry counts for both.

    Raise RuntimeError unless there are one or two entries.
    """
    values = numbers[name]
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values to match the convolution dimensions, "
            f"but got {name}={list(values)}"
        )
    return values[0], values[-1]


def check_tensors(function: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise TypeError unless input and weight are tensors, and the bias is a tensor or None."""
    for name, value in (("input", input), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(value).__name__}")
    if not (bias is None or isinstance(bias, Tensor)):
        raise TypeError(f"{function}(): argument 'bias' must be Tensor, not {type(bias).__name__}")


def check_ranks(function: str, input: Tensor, weight: Tensor, varies: str = "") -> None:
    """Raise RuntimeError if input or weight has a wrong number of dimensions.

    The input has 3 or 4. The weight has 4, and one more for each letter in `varies`.
    """
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: {list(input.shape)}"
        )
    if varies:
        letters = f"({', '.join([*varies.upper().split(), 'F', 'C/groups', 'R', 'S'])})"
        if weight.ndim != 4 + len(varies.split()):
            raise RuntimeError(
                f"Expected weight of shape {letters} for {function}, but got weight of size {list(weight.shape)}"
            )
    elif weight.ndim != 4:
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
    """Raise RuntimeError unless the number of filters is a positive multiple of `groups` and filters have taps."""
    size, dim = weight.shape, weight.ndim - 4
    if size[dim] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension {dim}, "
            f"but got weight of size {list(size)} instead"
        )
    if size[dim] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension {dim}, "
            f"but got weight of size {list(size)} instead"
        )
    if size[-2] == 0 or size[-1] == 0:
        raise RuntimeError(
            "kernel size should be greater than zero, but got "
            f"kernel_height: {size[-2]} kernel_width: {size[-1]} for weight of size {list(size)}"
        )


def check_samples(input: Tensor, weight: Tensor, varies: str) -> None:
    """Raise RuntimeError if the weight varies over samples but does not have as many samples as the input."""
    if "b" in varies and weight.shape[0] != input.shape[0]:
        raise RuntimeError(
            f"Given weight of size {list(weight.shape)}, expected input{list(input.shape)} to have "
            f"{weight.shape[0]} samples, but got {input.shape[0]} samples instead"
        )


def check_positions(weight: Tensor, varies: str, features: str, size: Sequence[int]) -> None:
    """Raise RuntimeError if the weight varies over positions but not over `size`, the positions of `features`.

    `features` is a phrase for the error message that says which tensor has these positions.
    """
    if "p" in varies and tuple(weight.shape[-6:-4]) != tuple(size):
        P, Q = weight.shape[-6:-4]
        raise RuntimeError(
            f"Given weight of size {list(weight.shape)}, expected {P} x {Q} positions, "
            f"but {features} has {size[0]} x {size[1]} positions"
        )


def check_bias(
    bias: Tensor | None,
    weight: Tensor,
    channels: tuple[int],
    given: str,
    varies: str = "",
    extents: tuple[int, ...] = (),
) -> None:
    """Raise RuntimeError unless the bias has an allowed shape.

    No bias, and the shape `channels`, are always allowed. A weight that varies over samples or positions also allows a
    bias that varies over them: `extents` has the number of samples, and the rows and columns of the result. The message
    says `given` in front of the weight.
    """
    if bias is None or bias.shape == channels:
        return
    sizes: list[tuple[int, ...]] = [channels]
    if "b" in varies:
        sizes.append((extents[0], *channels))
    if "p" in varies:
        sizes += [(*size, *extents[1:]) for size in sizes]
    if any(bias.shape == size for size in sizes):
        return
    expected = " or ".join(str(list(size)) for size in sizes)
    wanted = f"1-dimensional with {channels[0]} elements" if not varies else f"of size {expected}"
    raise RuntimeError(
        f"Given {given}weight of size {list(weight.shape)}, expected bias to be {wanted}, "
        f"but got bias of size {list(bias.shape)} instead"
    )


def check_not_empty(input: Tensor) -> None:
    """Raise RuntimeError if the input has no pixels. An empty batch, and images without channels, are legal."""
    B, C, H, W = input.shape
    if (H == 0 or W == 0) and B != 0 and C != 0:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input.shape)}"
        )


def check_output_size(input: Tensor, size: Sequence[int]) -> None:
    """Raise RuntimeError if a transposed convolution of `input` can not have the output size `size`.

    Its rows and columns must be more than zero, or zero for an empty batch, and fit in 64 bits.
    """
    small, large = min(size) < (0 if input.shape[0] == 0 else 1), max(size) >= 2**63
    if small or large:
        raise RuntimeError(
            f"Given input size per channel: ({input.shape[2]} x {input.shape[3]}). Calculated output size per channel: "
            f"({size[0]} x {size[1]}). Output size is too {'small' if small else 'large'}"
        )


def check_multiplied(function: str, input: Tensor) -> None:
    """Raise NotImplementedError if the dtype is bool, which torch does not multiply and sum."""
    if input.dtype == torch.bool:
        raise NotImplementedError(f"\"{function}\" not implemented for 'Bool'")


def check_same(name: str, input: Tensor, other: Tensor | None) -> None:
    """Raise RuntimeError if `other`, which the message calls `name`, differs from `input` in dtype or device.

    Dtypes may differ if autocast makes them equal. None passes.
    """
    if other is None or (input.dtype == other.dtype and input.device == other.device):
        return
    if input.device != other.device:
        raise RuntimeError(
            f"Input type ({input.dtype} on {input.device}) and {name} type ({other.dtype} on {other.device}) "
            "should be the same"
        )
    if autocast_dtype(input) != autocast_dtype(other):
        raise RuntimeError(f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same")
