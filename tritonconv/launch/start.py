"""Start the kernels of a plan, for the first time or again. No other module does."""

import os
import threading
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor

from tritonconv.launch.kept_plan import KeptPlan
from tritonconv.launch.launchers import with_scratch
from tritonconv.launch.plan import Launch, Plan

# The first start of a kernel, which compiles and loads it, is not safe in several threads. Nor is the interpreter.
starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=starting.acquire, after_in_parent=starting.release, after_in_child=starting.release)

# `torch.cuda.current_device` calls this, and before that it initialises CUDA, as any tensor on a GPU has done.
_current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, and return its results."""
    start_kernels(plan)
    return plan.results


def start_kernels(plan: Plan) -> list[Any]:
    """Start the kernels of `plan` on the device of its results, one thread at a time.

    Return the kernel that Triton compiled for each launch. The interpreter compiles nothing, and has None instead.
    """
    device = plan.results[0].device
    with starting, torch.cuda.device_of(plan.results[0]):
        if plan.tile.uses_tma:
            return copy_context().run(with_scratch, device, start_each, plan.launches)
        return start_each(plan.launches)


def start_each(launches: list[Launch]) -> list[Any]:
    return [each.kernel[(each.programs,)](**each.in_triton()) for each in launches]


def run_again(plan: KeptPlan, first: Tensor, second: Tensor, bias: Tensor | None) -> list[Any] | None:
    """Start the kernels of a kept plan with these operands, one thread at a time.

    Return the plan's tensors, by their numbers. Return None, and start nothing, if the plan can not be filled.
    """
    index = plan.index
    # Ask first, because `torch.cuda.device` takes much longer than the question.
    if index is not None and _current_device() != index:
        with torch.cuda.device(index):
            return run_again(plan, first, second, bias)
    tensors = plan.filled(first, second, bias)
    if tensors is None:
        return None
    with starting:
        triton = plan.triton
        # If a user has replaced a chain of hooks by something without `calls`, Triton must call that, too.
        if (
            triton is None
            or getattr(triton.hooks.launch_enter_hook, "calls", True)
            or getattr(triton.hooks.launch_exit_hook, "calls", True)
        ):
            for each in plan.launches:
                each.start(tensors)
            return tensors
        stream, before = triton.stream_of(index), triton.allocator.set(triton.scratch)
        try:
            for _, launcher, function, metadata, programs, values, pointers, descriptors in plan.launches:
                arguments = values.copy()
                for position, number in pointers:
                    arguments[position] = tensors[number]
                for position, number, descriptor_at in descriptors:
                    arguments[position] = descriptor_at(tensors[number].data_ptr())
                launcher(programs, 1, 1, stream, function, metadata, None, None, None, *arguments)
        finally:
            triton.allocator.reset(before)
    return tensors
