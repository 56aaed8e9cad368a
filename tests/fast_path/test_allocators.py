"""How memory is allocated for the results of a kept plan."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonconv.launch import kept_plan

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

# What `Allocate` is passed, for tensors of torch's memory formats, of odd strides, and without elements.
ALLOCATIONS: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = [
    ((2, 3, 4, 5), (60, 20, 5, 1), torch.float32),
    ((2, 3, 4, 5), (60, 1, 15, 3), torch.bfloat16),
    ((2, 3), (1, 8), torch.float16),
    ((0, 3), (3, 1), torch.float32),
    ((384,), (1,), torch.int8),
]
MODES: dict[str, Any] = {
    "no mode": nullcontext,
    "without gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "default device": partial(torch.device, "meta"),
}


def about(tensor: Tensor) -> tuple[Any, ...]:
    """Return all that torch knows of a new tensor but its address."""
    return (
        type(tensor),
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.untyped_storage().nbytes(),
        tensor.dtype,
        tensor.device,
        tensor.layout,
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.is_inference(),
        tensor._version if not tensor.is_inference() else None,
        torch._C._dispatch_keys(tensor).raw_repr(),
    )


@pytest.mark.parametrize("mode", MODES, ids=[*MODES])
def test_both_allocators_return_equal_tensors(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch lacks the quick function, `torch.empty_strided` takes its place. Modes change both alike."""
    quick = kept_plan.allocator_of("cpu")
    assert quick is torch._C._dynamo.guards._empty_strided_cpu
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cpu")
    slow = kept_plan.allocator_of("cpu")
    assert slow is not quick
    for allocation in ALLOCATIONS:
        with MODES[mode]():
            found, expected = quick(*allocation), slow(*allocation)
        assert about(found) == about(expected)
        assert found.device.type == "cpu"
        assert (found.shape, found.stride(), found.dtype) == allocation
        assert found.is_inference() == (mode == "inference mode")


def test_memory_of_a_gpu_is_asked_for_by_the_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index, torch allocates on the current GPU."""
    asked: list[Any] = []
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cuda", raising=False)
    monkeypatch.setattr(torch, "empty_strided", lambda *values, **more: asked.append((values, more)))
    kept_plan.allocator_of("cuda")((2, 3), (3, 1), torch.float16)
    assert asked == [(((2, 3), (3, 1)), dict(dtype=torch.float16, device="cuda"))]
