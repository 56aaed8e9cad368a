"""The peak of the memory that a call takes: of all that torch allocates in it, inside its operators too."""

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
    """The most bytes that are allocated at a time during a call, beyond those before it, and what it returns."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    results = computation()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, results


def on_cpu(computation: Computation) -> tuple[int, Any]:
    """The same, from a profile of what torch's allocator hands out in the call, and gets back of that: it sees neither
    what libraries keep apart nor that something from before the call is freed.
    """
    with uncollected(), profile(use_kineto=True, profile_memory=True) as profiler:
        results = computation()
    found = profiler.kineto_results
    assert found is not None
    changes = sorted((event.start_ns(), event.nbytes()) for event in found.events() if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0)), results


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected as garbage meanwhile: it would be memory from before the call that is given back in it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def beside_results(peak: int, results: Sequence[Tensor] | None) -> int:
    """Of the peak of a call, what it takes beside operands and results."""
    return peak - sum(result.untyped_storage().nbytes() for result in results or ())
