"""Tensors of integers, which the reference convolves on a CPU, and integer arguments of more than 64 bits."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tritonconv import reference

pytestmark = pytest.mark.usefixtures("on_reference")

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def over_the_range(dtype: torch.dtype, *shape: int) -> Tensor:
    """Return integers drawn from the whole range of the dtype, so that sums wrap around."""
    return torch.randint(torch.iinfo(dtype).min, torch.iinfo(dtype).max, shape, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arguments", [{}, dict(stride=(2, 1), padding=(1, 2)), dict(groups=2)])
def test_integers_are_convolved_as_in_torch(ours: ModuleType, dtype: torch.dtype, arguments: dict[str, Any]) -> None:
    x, bias = over_the_range(dtype, 2, 4, 6, 5), over_the_range(dtype, 6)
    weight = over_the_range(dtype, 6, 4 // arguments.get("groups", 1), 3, 2)
    result = ours.conv2d(x, weight, bias, **arguments)
    assert result.dtype == dtype
    assert torch.equal(result, functional.conv2d(x, weight, bias, **arguments))


@pytest.mark.parametrize(
    "arguments", [{}, dict(stride=2, output_padding=1, padding=1), dict(dilation=(1, 3), groups=2)]
)
def test_64_bit_integers_are_spread_as_in_torch(ours: ModuleType, arguments: dict[str, Any]) -> None:
    x, bias = over_the_range(torch.int64, 2, 4, 3, 2), over_the_range(torch.int64, 6)
    weight = over_the_range(torch.int64, 4, 6 // arguments.get("groups", 1), 3, 2)
    result = ours.conv_transpose2d(x, weight, bias, **arguments)
    assert torch.equal(result, functional.conv_transpose2d(x, weight, bias, **arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_torch_has_no_kernel_for(ours: ModuleType, dtype: torch.dtype) -> None:
    """Dilated and transposed convolutions of every integer dtype, which torch lacks: 64-bit sums, cut to the dtype."""
    x, weight = over_the_range(dtype, 2, 4, 6, 5), over_the_range(dtype, 4, 4, 3, 2)
    wide, wide_weight = x.long(), weight.long()
    spread = functional.conv_transpose2d(wide, wide_weight, stride=2).to(dtype)
    assert torch.equal(ours.conv_transpose2d(x, weight, stride=2), spread)
    holes = torch.zeros(4, 4, 5, 3, dtype=torch.int64)
    holes[:, :, ::2, ::2] = wide_weight
    assert torch.equal(ours.conv2d(x, weight, dilation=2), functional.conv2d(wide, holes).to(dtype))


def test_integers_of_weights_that_vary() -> None:
    x, weight = over_the_range(torch.int64, 2, 3, 4, 4), over_the_range(torch.int64, 5, 3, 2, 2)
    local = reference.locally_connected2d(x, weight.expand(3, 3, *weight.shape))
    assert torch.equal(local, functional.conv2d(x, weight))


def test_booleans_are_refused(ours: ModuleType) -> None:
    x, weight = torch.ones(1, 1, 3, 3, dtype=torch.bool), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    for module in (functional, ours):
        with pytest.raises(NotImplementedError, match="not implemented for 'Bool'"):
            module.conv2d(x, weight)


TOO_LARGE = [2**63, 2**70, -(2**63) - 1]


ARGUMENTS = [
    (function, name, entry)
    for function, more in (("conv2d", []), ("conv_transpose2d", ["output_padding"]))
    for name in ("groups", "stride", "padding", "dilation", *more)
    for entry in ("alone", "in a tuple")
    if name != "groups" or entry == "alone"
]


@pytest.mark.parametrize("value", TOO_LARGE)
@pytest.mark.parametrize(("function", "name", "entry"), ARGUMENTS)
def test_more_than_64_bits(ours: ModuleType, function: str, name: str, entry: str, value: int) -> None:
    x, weight = torch.ones(1, 3, 5, 5), torch.ones(3, 3, 3, 3)
    for module in (functional, ours):
        with pytest.raises((ValueError, TypeError), match="Overflow when unpacking long long") as error:
            getattr(module, function)(x, weight, **{name: value if entry == "alone" else (1, value)})
        assert error.type is (ValueError if entry == "alone" else TypeError)
    if entry != "alone":
        assert f"argument '{name}' failed to unpack the object at pos 2" in str(error.value)


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_a_result_of_more_than_64_bits(ours: ModuleType, name: str) -> None:
    x, weight = torch.ones(1, 3, 5, 5), torch.ones(3, 3, 3, 3)
    for module in (functional, ours):
        with pytest.raises(RuntimeError):
            module.conv_transpose2d(x, weight, **{name: 2**62})


def test_modules_with_more_than_64_bits(ours: ModuleType) -> None:
    for module in (nn, ours):
        layer = module.Conv2d(3, 4, 3, stride=2**63)
        with pytest.raises(TypeError, match="Overflow when unpacking long long"):
            layer(torch.ones(1, 3, 5, 5))
