"""The counter of peak memory, and what it shows: unfold keeps every pixel once for each tap; fused layers do not."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from bench.run import memory, timing
from tests.support import guards
from tritonconv import reference
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import kept_plan, layout, tile_choice
from tritonconv.operators import compute

CPU = torch.device("cpu")
KILO = 1000
TAPS = 9


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.uint8)


def both() -> tuple[Tensor, ...]:
    return ones(1 * KILO), ones(2 * KILO)


def one_after_the_other() -> tuple[Tensor, ...]:
    for _ in range(5):
        first = ones(3 * KILO)
        del first
    return (ones(1 * KILO),)


@pytest.mark.parametrize(
    ("call", "peak", "extra"),
    [
        (both, 3 * KILO, 0),
        (one_after_the_other, 3 * KILO, 2 * KILO),
        (lambda: None, 0, 0),
    ],
)
def test_the_peak_is_of_what_is_there_at_a_time(call: Callable[[], Any], peak: int, extra: int) -> None:
    found, results = memory.on_cpu(call)
    assert found == peak
    assert memory.beside_results(found, results) == extra


def test_what_an_operator_takes_for_itself_counts() -> None:
    """The einsum needs at least one temporary of KILO float64 numbers, which it allocates inside torch."""
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


# 3 x 3 positions on a 3 x 3 image, and 9 taps: unfold's patches are as large as 9 images. The weights take most memory.
LAYERS = {
    "LocallyConnected2d": dict(in_channels=16, out_channels=16, kernel_size=3, input_size=3, padding=1),
    "LocallyConnectedTranspose2d": dict(in_channels=16, out_channels=16, kernel_size=3, input_size=3, padding=1),
}
IMAGES = 24


def step(layer: Any, input: Tensor) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    """Return a function that runs forward and backward of a layer, and its operands.

    The operands are input, parameters and incoming gradient. The input is copied to channels_last.
    """
    leaves = [input.contiguous(memory_format=torch.channels_last).requires_grad_(), *layer.parameters()]
    gradient = torch.randn_like(layer(leaves[0]))

    def call() -> tuple[Tensor, ...]:
        result = layer(leaves[0])
        return result, *torch.autograd.grad(result, leaves, gradient)

    return call, [*leaves, gradient]


def size(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocate without the tests' guard bands, which would count as memory.

    Before each allocation, collect the tensors that the interpreter leaves in reference cycles: they would count too.
    """

    def collected(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *given: (gc.collect(), allocate(*given))[1]

    monkeypatch.setattr(layout, "allocate", collected(guards.unguarded))
    for kind in kept_plan.allocators:
        monkeypatch.setitem(kept_plan.allocators, kind, collected(kept_plan.allocator_of(kind)))


def peak_of(call: Callable[[], Any], device: str) -> tuple[int, Any]:
    """Return the peak memory of a call in bytes, beyond what was allocated before it, and its results."""
    return memory.on_cpu(call) if device == "cpu" else memory.on_gpu(call, torch.device(device))


@pytest.mark.parametrize("name", LAYERS)
def test_the_fused_layers_take_no_more_than_operands_and_results(name: str, device: str, unguarded: None) -> None:
    """The fused layers take at most a tenth more than operands and results.

    The reference takes all its patches on top.
    """
    patches = TAPS * IMAGES * 16 * 3 * 3 * 4
    input = torch.randn(IMAGES, 16, 3, 3, device=device)
    with tritonconv.using("triton"):
        call, operands = step(getattr(tritonconv, name)(**LAYERS[name], device=device), input)
        peak, results = peak_of(call, device)
    assert size(operands) + peak <= 1.1 * (size(operands) + size(results))
    assert memory.beside_results(peak, results) < patches / TAPS
    call, operands = step(getattr(reference, name)(**LAYERS[name], device=device), input)
    peak, results = peak_of(call, device)
    assert memory.beside_results(peak, results) >= patches


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_partial_sums_are_gone_before_the_images_gradient_is_there(
    name: str, bias: bool, device: str, unguarded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wgrad's eight partial sums are smaller than the image's gradient. Freed in time, they do not raise the peak."""
    pick = tile_choice.pick
    splits = {"wgrad": 8}
    monkeypatch.setattr(
        tile_choice, "pick", lambda *request: replace(pick(*request), SPLIT_K=splits.get(request[1], 1))
    )
    layer = getattr(tritonconv, name)(16, 16, 3, padding=1, bias=bias, device=device)
    with tritonconv.using("triton"):
        call, operands = step(layer, torch.randn(4, 16, 18, 18, device=device))
        peak, results = peak_of(call, device)
    assert 8 * layer.weight.nbytes < operands[0].nbytes
    assert memory.beside_results(peak, results) < 2 * layer.weight.nbytes  # one is a copy in another order


@pytest.mark.parametrize("kept", [False, True])
def test_workspaces_are_gone_before_results_are_checked(
    kept: bool, device: str, unguarded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is `tritonconv.verify`, which takes memory itself."""
    geometry = ConvGeometry(B=2, C=16, H=6, W=6, F=16, P=6, Q=6, R=3, S=3, pad_h=1, pad_w=1)
    x, y = torch.randn(2, 16, 6, 6, device=device), torch.randn(2, 16, 6, 6, device=device)
    call = Call.of_geometry("wgrad", geometry, (x, y), channels_last=False, implementation="triton")
    for _ in range(kept):
        compute.compute(call)
    allocated: list[weakref.ref[Tensor]] = []
    beside: list[Tensor] = []

    def noted(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*given: Any) -> Tensor:
            tensor = allocate(*given)
            allocated.append(weakref.ref(tensor))
            return tensor

        return made

    def observe(_: Call, results: tuple[Tensor, ...]) -> None:
        gc.collect()
        there = [tensor for each in allocated if (tensor := each()) is not None]
        beside.extend(tensor for tensor in there if tensor is not results[0])

    monkeypatch.setattr(layout, "allocate", noted(layout.allocate))
    for kind, again in kept_plan.allocators.items():
        monkeypatch.setitem(kept_plan.allocators, kind, noted(again))
    monkeypatch.setattr(compute, "observers", [observe])
    compute.compute(call)
    assert len(allocated) == 2  # the weight's gradient, and its partial sums
    assert beside == []
