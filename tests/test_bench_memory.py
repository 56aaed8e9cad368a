"""The counter of memory, and with it: unfold keeps every pixel once for each tap, and the fused local layers do not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
import tritonconv
from bench import memory, timing
from tritonconv import launch, layout

CPU = torch.device("cpu")
KILO = 1000
TAPS = 9


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.uint8)


def kept() -> tuple[Tensor, ...]:
    return ones(1 * KILO), ones(2 * KILO)


def one_after_the_other() -> tuple[Tensor, ...]:
    for _ in range(5):
        first = ones(3 * KILO)
        del first
    return (ones(1 * KILO),)


@pytest.mark.parametrize(
    ("call", "peak", "extra"),
    [
        (kept, 3 * KILO, 0),
        (one_after_the_other, 3 * KILO, 2 * KILO),
        (lambda: None, 0, 0),
    ],
)
def test_the_peak_is_of_what_is_there_at_a_time(call: Callable[[], Any], peak: int, extra: int) -> None:
    found, results = memory.on_cpu(call)
    assert found == peak
    assert memory.beside_results(found, results) == extra


def test_what_an_operator_takes_for_itself_counts() -> None:
    """A product of float64 with one that is converted to it: 8 bytes for each element of the copy and the result."""
    wide, narrow = torch.ones(KILO, KILO, dtype=torch.float64), torch.ones(KILO, dtype=torch.float64)
    peak, (total,) = memory.on_cpu(lambda: (torch.einsum("mn,n,m->", wide, narrow, narrow),))
    assert total == KILO**2
    assert 8 * KILO <= peak < 8 * 3 * KILO


def test_what_was_there_before_does_not_count() -> None:
    held = [ones(9 * KILO)]

    def call() -> tuple[Tensor, ...]:
        held.clear()
        return (ones(2 * KILO),)

    assert memory.on_cpu(call)[0] == 2 * KILO


def test_rows_of_a_cpu_have_it_too() -> None:
    assert timing.side_by_side({"a": one_after_the_other}, CPU, budget=0.0)["a"].extra_bytes == 2 * KILO


# 3 x 3 positions on an image as large, and 9 taps: what unfold copies out is 9 images. Weights are most of the memory.
LAYERS = {
    "LocallyConnected2d": dict(in_channels=16, out_channels=16, kernel_size=3, input_size=3, padding=1),
    "LocallyConnectedTranspose2d": dict(in_channels=16, out_channels=16, kernel_size=3, input_size=3, padding=1),
}
IMAGES = 24


def step(package: Any, name: str) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    """Forward and backward of a layer in channels_last, and what is there before it: input, parameters, gradient."""
    layer: Any = getattr(package, name)(**LAYERS[name])
    input, gradient = (torch.randn(IMAGES, 16, 3, 3).contiguous(memory_format=torch.channels_last) for _ in range(2))
    leaves = [input.requires_grad_(), *layer.parameters()]

    def call() -> tuple[Tensor, ...]:
        result = layer(input)
        return result, *torch.autograd.grad(result, leaves, gradient)

    return call, [*leaves, gradient]


def size(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("name", LAYERS)
def test_the_fused_layers_take_no_more_than_operands_and_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tenth; the reference takes all its patches on top."""
    monkeypatch.setattr(launch, "allocate", layout.allocate)  # without the tests' fences, which are memory too
    patches = TAPS * IMAGES * 16 * 3 * 3 * 4
    call, operands = step(tritonconv, name)
    with tritonconv.using("triton"):
        peak, results = memory.on_cpu(call)
    assert size(operands) + peak <= 1.1 * (size(operands) + size(results))
    assert memory.beside_results(peak, results) < patches / TAPS
    call, operands = step(reference, name)
    peak, results = memory.on_cpu(call)
    assert memory.beside_results(peak, results) >= patches
