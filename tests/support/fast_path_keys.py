"""The fields of the fast path's two keys, and calls and backward passes as values of which one part can be replaced."""

from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv import functional
from tritonconv.fast_path import function
from tritonconv.geometry import Operator
from tritonconv.operators.autograd import SavedCall

DESCRIBED = ("device", "dtype", "shape", "strides", "address")
# The numbers of the functions of each operator, in the order of the key, and all of them.
NUMBERS: dict[Operator, tuple[str, ...]] = {
    "fprop": ("stride", "padding", "dilation", "groups"),
    "dgrad": ("stride", "padding", "output_padding", "groups", "dilation"),
}
DULL = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
# The fields of both keys. "bias" is whether there is one.
FORWARD = [
    "form.operator",
    "form.varies",
    *DULL,
    "implementation",
    "tf32",
    *(f"{tensor}.{field}" for tensor in ("input", "weight", "bias") for field in DESCRIBED),
    "bias",
]
BACKWARD = [
    "saved_call",
    "needed",
    "tf32",
    *(f"{tensor}.{field}" for tensor in ("gradient", "first", "weight") for field in DESCRIBED),
]

Parts = dict[str, Any]


class Given(NamedTuple):
    """A call of a function of `tritonconv.functional`, with its numbers by their names."""

    function: str
    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    numbers: dict[str, Any] = {}  # noqa: RUF012
    implementation: str = "triton"

    def run(self) -> tuple[Tensor, ...]:
        """Return the result. Numbers that are not given are passed as ints that change nothing."""
        named = DULL_OF[self.function] | self.numbers | {"implementation": self.implementation}
        return (getattr(functional, self.function)(self.input, self.weight, self.bias, **named),)


# The numbers of each function.
DULL_OF: dict[str, dict[str, Any]] = {
    name: {number: DULL[number] for number in NUMBERS["dgrad" if "transpose" in name else "fprop"]}
    for name in (
        "conv2d",
        "conv_transpose2d",
        "locally_connected2d",
        "locally_connected_transpose2d",
        "per_sample_conv2d",
        "dynamic_conv2d",
    )
}


class Pass(NamedTuple):
    """A backward pass: what autograd passes to `Convolution.backward`, in which no gradient is recorded.

    `needed` says whether the gradients of first, weight and bias are required. The fourth input is no tensor.
    """

    saved_call: SavedCall
    first: Tensor
    weight: Tensor
    gradient: Tensor
    needed: tuple[bool, ...] = (True, True, False, False)

    def run(self) -> tuple[Tensor | None, ...]:
        saved = (self.first, self.weight)
        ctx = SimpleNamespace(saved_call=self.saved_call, saved_tensors=saved, needs_input_grad=self.needed)
        with torch.no_grad():
            return function.Convolution.backward(ctx, self.gradient)


def parts_of_forward(key: Any) -> Parts:
    """Return the fields of `forward.key` by their names, in the order of FORWARD. A new one raises ValueError."""
    form, numbers, implementation, tf32, *described, bias = key
    named = DULL | dict(zip(NUMBERS[form.operator], numbers, strict=True))
    found = {"form.operator": form.operator, "form.varies": form.varies, **named}
    found |= {"implementation": implementation, "tf32": tf32}
    each = [*described, *([None] * len(DESCRIBED) if bias is None else bias)]
    found |= dict(zip(FORWARD[FORWARD.index("tf32") + 1 : -1], each, strict=True))
    return found | {"bias": bias is not None}


def parts_of_backward(key: Any) -> Parts:
    """Return the fields of `backward.key` by their names, in the order of BACKWARD. A new one raises ValueError."""
    return dict(zip(BACKWARD, key, strict=True))


def without(parts: Parts, field: str) -> Hashable:
    """Return the key without this field. Without "bias", it lacks all that describes the bias."""
    return tuple(value for name, value in parts.items() if name != field and not name.startswith(f"{field}."))


def differing(one: Parts, other: Parts) -> list[str]:
    """Return the fields in which two keys differ. Those that describe a bias do not count if only one call has one."""
    found = [name for name in one if one[name] != other[name]]
    return [name for name in found if not (name.startswith("bias.") and "bias" in found)]
