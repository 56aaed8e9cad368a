"""Start the kernels of a plan. No other module starts kernels."""

import os
import threading
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor

from tritonconv.launch.layout import aligned_bytes
from tritonconv.launch.plan import Plan

# The first start of a kernel, which compiles and loads it, is not safe in several threads. Nor is the interpreter.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, and return its results."""
    start_kernels(plan)
    return plan.results


def start_kernels(plan: Plan) -> list[Any]:
    """Start the kernels of `plan` on the device of its results, one thread at a time.

    Return the kernel that Triton compiled for each launch. The interpreter compiles nothing, and has None instead.
    """
    with _starting, torch.cuda.device_of(plan.results[0]):
        if plan.tile.uses_tma:
            # Triton keeps its allocator in a context variable. This sets it in a copy of the context, so the caller's
            # stays.
            return copy_context().run(start_with_scratch, plan)
        return start_each(plan)


def start_each(plan: Plan) -> list[Any]:
    return [kernel[(programs,)](**arguments) for kernel, programs, arguments in plan.launches]


def start_with_scratch(plan: Plan) -> list[Any]:
    """Start the kernels of `plan`, which may use TMA, and return what `start_each` returns.

    The programs build their own TMA descriptors, in memory that Triton asks its allocator for. This sets the allocator
    of the current context.
    """
    import triton

    device = plan.results[0].device
    triton.set_allocator(lambda size, alignment, _: aligned_bytes(size, alignment, device))
    return start_each(plan)
