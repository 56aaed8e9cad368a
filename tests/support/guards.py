"""Guard bands around tensors, NaN-filled outputs, and an address check for Triton's interpreter.

A guard band is memory directly before and after a tensor. Around inputs it holds NaN, so that a load out of
bounds shows in the result. Around outputs it holds a constant that must be unchanged after the kernels ran.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonconv.launch import kept_plan, layout
from tritonconv.runtime import interpreted

MARGIN = 64  # elements in a guard band; a multiple of every alignment, so the guarded tensor keeps its own
IN_GUARD_BANDS = -777.0
# The allocator without guard bands, for tests that must not have them.
unguarded = layout.allocate


def guardable(tensor: Tensor) -> bool:
    """Whether `tensor` can be copied between guard bands: a plain floating-point tensor that is not empty."""
    return type(tensor) is Tensor and tensor.dtype.is_floating_point and tensor.numel() > 0


def with_guard_bands(tensor: Tensor, value: float = float("nan")) -> tuple[Tensor, Tensor]:
    """Return a copy of `tensor` between two guard bands that hold `value`, and the flat tensor that holds all three.

    The copy has the strides and the alignment of `tensor`. What lies in the gaps between its elements is copied, too.
    """
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    start = MARGIN + tensor.storage_offset() % MARGIN
    storage = torch.full((start + span + MARGIN,), value, dtype=tensor.dtype, device=tensor.device)
    storage[start : start + span] = tensor.as_strided((span,), (1,), tensor.storage_offset())
    # Not a view: autograd treats views differently.
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        storage.untyped_storage(), start, tensor.shape, tensor.stride()
    ), storage


def guarded(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of `tensor` between guard bands of NaN, or `tensor` itself if it is None or not `guardable`."""
    return with_guard_bands(tensor)[0] if tensor is not None and guardable(tensor) else tensor


def guard_bands_intact(result: Tensor, storage: Tensor) -> bool:
    """Whether all elements of `storage` before and after `result` still hold `IN_GUARD_BANDS`."""
    start = result.storage_offset()
    span = sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True)) + 1
    return bool((storage[:start] == IN_GUARD_BANDS).all() and (storage[start + span :] == IN_GUARD_BANDS).all())


def fill_with_nan() -> None:
    """Fill new results and workspaces with NaN from now on. Use it in a process of a test's own."""
    allocate, allocate_again = layout.allocate, kept_plan.allocators["cpu"]
    layout.allocate = lambda *of: allocate(*of).fill_(float("nan"))
    kept_plan.allocators["cpu"] = lambda *of: allocate_again(*of).fill_(-1 if of[-1] == torch.int8 else float("nan"))


@contextmanager
def guarded_memory() -> Iterator[None]:
    """Within this block, fill each new result and workspace with NaN, and put guard bands around it.

    An element that no kernel writes then stays NaN. At the end of the block, raise AssertionError if a guard band has
    changed. Tensors that are not `guardable`, and meta tensors, are left as they are. In the interpreter every address
    is checked, too (`checked_addresses`).
    """
    outputs: list[tuple[Tensor, Tensor]] = []

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*arguments: Any) -> Tensor:
            wanted = allocate(*arguments)
            if wanted.device.type == "meta" or not guardable(wanted):
                return wanted
            result, storage = with_guard_bands(wanted.fill_(float("nan")), IN_GUARD_BANDS)
            outputs.append((result, storage))
            return result

        return allocated

    with pytest.MonkeyPatch.context() as patch, checked_addresses():
        patch.setattr(layout, "allocate", poisoned(layout.allocate))
        for kind, allocate in kept_plan.allocators.items():
            patch.setitem(kept_plan.allocators, kind, poisoned(allocate))
        yield
    for result, storage in outputs:
        assert guard_bands_intact(result, storage), (
            f"a kernel wrote outside its output: the memory around a result or workspace of shape {tuple(result.shape)}"
            " has changed, so a store's mask or offset is wrong"
        )


@contextmanager
def checked_addresses() -> Iterator[None]:
    """Within this block, check that interpreted kernels load and store only inside the tensors of their launch.

    Inside means between a tensor's first and last element. Only addresses whose mask is true count. Loads and stores
    without a mask, and those of TMA descriptors, are checked, too: they end in the same two functions of the
    interpreter. Compiled kernels are not checked.
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
            tensor = getattr(given, "base", given)  # a TMA descriptor's tensor is its `base`
            if isinstance(tensor, Tensor) and tensor.numel() > 0:
                span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
                spans.append((tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()))
        return run(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", checked_load)
        patch.setattr(builder, "create_masked_store", checked_store)
        patch.setattr(executor, "__call__", noted_run)
        yield
