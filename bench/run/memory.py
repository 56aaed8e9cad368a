"""Measures the peak of the memory that a call takes: everything torch allocates in the call, also inside operators."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile

Computation = Callable[[], Any]


def on_gpu(computation: Computation, device: torch.device) -> tuple[int, Any]:
    """Return the peak of the bytes allocated in a call, beyond those allocated before it, and the call's results."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    results = computation()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, results


def on_cpu(computation: Computation) -> tuple[int, Any]:
    """Return the peak of the bytes allocated in a call, beyond those allocated before it, and the call's results.

    The bytes come from torch's profile of its allocator during the call. The profile sees no memory that libraries
    allocate by themselves. Nor does it see the freeing of tensors from before the call.
    """
    with uncollected(), profile(use_kineto=True, profile_memory=True) as profiler:
        results = computation()
    found = profiler.kineto_results
    assert found is not None
    changes = sorted((event.start_ns(), event.nbytes()) for event in found.events() if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0)), results


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch garbage collection off within the block, so that memory from before a call is not freed during it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def beside_results(peak: int, results: Sequence[Tensor] | None) -> int:
    """Return the bytes of a call's peak that are not those of its results: all of them if `results` is None.

    `peak` does not contain the operands.
    """
    return peak - sum(result.untyped_storage().nbytes() for result in results or ())
