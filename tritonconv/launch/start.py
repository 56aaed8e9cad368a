"""Start the kernels of a plan: the only place that does."""

import os
import threading
from contextvars import copy_context

import torch
from torch import Tensor

from tritonconv.launch.plan import Plan

# Neither the first start of a kernel, which compiles and loads it, nor the interpreter is safe in several threads.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, on the device of its results, one thread at a time."""
    with _starting, torch.cuda.device_of(plan.results[0]):
        if plan.tile.uses_tma:
            # Triton keeps the allocator in a context variable: in a copy, so that the caller's stays.
            copy_context().run(start_with_scratch, plan)
        else:
            start(plan)
    return plan.results


def start(plan: Plan) -> None:
    plan.compiled[:] = [kernel[(programs,)](**arguments) for kernel, programs, arguments in plan.launches]


def start_with_scratch(plan: Plan) -> None:
    """Start kernels whose programs describe tensors to the hardware, in memory that Triton asks for."""
    import triton

    device = plan.results[0].device
    triton.set_allocator(lambda size, *_: torch.empty(size, dtype=torch.int8, device=device))
    start(plan)
