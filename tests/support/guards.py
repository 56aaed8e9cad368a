"""Fences around tensors, and the address check for Triton's interpreter.

A fence is memory before and after a tensor. Around inputs it holds NaN, so that a stray load shows in the result.
Around outputs it holds a value that must still be there afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonconv.launch import layout, plan_cache
from tritonconv.runtime import interpreted

MARGIN = 64  # elements; keeps every alignment that the tensor had
FENCE = -777.0
# What allocates outputs without fences, of which a test may want none.
unguarded = layout.allocate


def guardable(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.dtype.is_floating_point and tensor.numel() > 0


def fence(tensor: Tensor, value: float = float("nan")) -> tuple[Tensor, Tensor]:
    """A copy of `tensor` with the same strides and alignment between two fences, and the storage that holds them."""
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    start = MARGIN + tensor.storage_offset() % MARGIN
    storage = torch.full((start + span + MARGIN,), value, dtype=tensor.dtype, device=tensor.device)
    storage[start : start + span] = tensor.as_strided((span,), (1,), tensor.storage_offset())
    # Not as a view, of which autograd would think otherwise.
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        storage.untyped_storage(), start, tensor.shape, tensor.stride()
    ), storage


def guarded(tensor: Tensor | None) -> Tensor | None:
    """`tensor` between fences of NaN."""
    return fence(tensor)[0] if tensor is not None and guardable(tensor) else tensor


def fences_stand(result: Tensor, storage: Tensor) -> bool:
    """Whether nothing was written before or after `result`."""
    start = result.storage_offset()
    span = sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True)) + 1
    return bool((storage[:start] == FENCE).all() and (storage[start + span :] == FENCE).all())


@contextmanager
def guarded_memory() -> Iterator[None]:
    """Every output starts as NaN between two fences, which must stand at the end; the interpreter checks addresses."""
    outputs: list[tuple[Tensor, Tensor]] = []

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*arguments: Any) -> Tensor:
            wanted = allocate(*arguments)
            if wanted.device.type == "meta" or not guardable(wanted):
                return wanted
            result, storage = fence(wanted.fill_(float("nan")), FENCE)
            outputs.append((result, storage))
            return result

        return allocated

    with pytest.MonkeyPatch.context() as patch, checked_addresses():
        patch.setattr(layout, "allocate", poisoned(layout.allocate))
        patch.setattr(plan_cache, "allocate_as", poisoned(plan_cache.allocate_as))
        yield
    for result, storage in outputs:
        assert fences_stand(result, storage), "a kernel wrote outside its output"


@contextmanager
def checked_addresses() -> Iterator[None]:
    """In the interpreter: every address that a kernel really loads or stores lies inside a tensor of its launch.

    Loads and stores without a mask, and those of descriptors, end in the same two functions.
    """
    if not interpreted():
        yield
        return
    import numpy as np
    from triton.runtime import interpreter

    spans: list[tuple[int, int]] = []
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, run = builder.create_masked_load, builder.create_masked_store, executor.__call__

    def check(pointers: Any, mask: Any, what: str) -> None:
        addresses = np.asarray(pointers.data)[np.asarray(mask.data, dtype=bool)].astype(np.uint64)
        inside = np.zeros(addresses.shape, dtype=bool)
        for first, last in spans:
            inside |= (addresses >= np.uint64(first)) & (addresses <= np.uint64(last))
        assert inside.all(), f"{(~inside).sum()} addresses of a {what} lie outside every tensor of the launch"

    def checked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        check(ptrs, mask, "load")
        return load(self, ptrs, mask, *rest, **more)

    def checked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        check(ptrs, mask, "store")
        return store(self, ptrs, value, mask, *rest, **more)

    def noted_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        spans.clear()
        for given in (*args, *kwargs.values()):
            tensor = getattr(given, "base", given)  # what a descriptor describes
            if isinstance(tensor, Tensor) and tensor.numel() > 0:
                span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
                spans.append((tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()))
        return run(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", checked_load)
        patch.setattr(builder, "create_masked_store", checked_store)
        patch.setattr(executor, "__call__", noted_run)
        yield
