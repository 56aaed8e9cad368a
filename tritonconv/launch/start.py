"""Start the kernels of a plan, for the first time or again. No other module starts kernels."""

import os
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tritonconv.launch.kept_plan import KeptPlan
from tritonconv.launch.layout import aligned_bytes
from tritonconv.launch.plan import Launch, Plan

# The first start of a kernel, which compiles and loads it, is not safe in several threads. Nor is the interpreter.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)

# The versions of Triton for which tests have proven that a compiled kernel's launcher takes what `by_launcher` passes.
PROVEN = ("3.6.", "3.7.", "3.8.", "3.9.")



def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, and return its results."""
    start_kernels(plan)
    return plan.results


def start_kernels(plan: Plan) -> list[Any]:
    """Start the kernels of `plan` on the device of its results, one thread at a time.

    Return the kernel that Triton compiled for each launch. The interpreter compiles nothing, and has None instead.
    """
    device = plan.results[0].device
    with _starting, torch.cuda.device_of(plan.results[0]):
        if plan.tile.uses_tma:
            return copy_context().run(with_scratch, device, start_each, plan.launches)
        return start_each(plan.launches)


def start_again(plan: KeptPlan, tensors: list[Any]) -> None:
    """Start the kernels of a kept plan with the tensors that `KeptPlan.filled` returned, one thread at a time."""
    device = plan.device
    # `torch.cuda.device` takes longer than this question.
    if device.type == "cuda" and torch.cuda.current_device() != device.index:
        with torch.cuda.device(device):
            start_again(plan, tensors)
            return
    with _starting:
        for begin, values, pointers in plan.launches:
            arguments = values.copy()
            for position, number in pointers:
                arguments[position] = tensors[number]
            begin(arguments)


def start_each(launches: list[Launch]) -> list[Any]:
    return [kernel[(programs,)](**arguments) for kernel, programs, arguments in launches]


def with_scratch(device: torch.device, start: Callable[..., Any], *arguments: Any) -> Any:
    """Call `start`, which starts kernels that may use TMA, and return what it returns.

    The programs build their own TMA descriptors, in memory that Triton asks its allocator for. Triton keeps the
    allocator in a context variable, which this sets. So it is to be called in a copy of the context.
    """
    import triton

    triton.set_allocator(partial(aligned_bytes, device))
    return start(*arguments)


def is_compiled(kernel: Any) -> bool:
    """Whether `kernel`, which starting a launch returned, is a kernel that Triton has compiled.

    It is not in the interpreter, nor while Triton still compiles in the background.
    """
    return hasattr(type(kernel), "__getitem__")


def starter(
    launch: Launch, compiled: Any, device: torch.device
) -> tuple[Sequence[str], Callable[[list[Any]], object]]:
    """Return the names of a launch's arguments, in their order, and the function that starts it again with their values.

    `compiled` is what starting the launch returned. A compiled kernel takes all parameters, constants included, and no
    launch options. It is started without Triton's look-up: by its own launcher where tests have proven how to call that
    (`PROVEN`), else by its public interface.
    """
    kernel, programs, arguments = launch
    if not is_compiled(compiled):
        names = list(arguments)
        return names, lambda values: kernel[(programs,)](**dict(zip(names, values, strict=True)))

    def start_publicly(values: list[Any]) -> object:
        return copy_context().run(with_scratch, device, compiled[(programs, 1, 1)], *values)

    from triton import __version__
    from triton.compiler import CompiledKernel

    proven = isinstance(compiled, CompiledKernel) and __version__.startswith(PROVEN)
    return kernel.arg_names, by_launcher(compiled, programs, device, start_publicly) if proven else start_publicly


def by_launcher(
    compiled: Any, programs: int, device: torch.device, start_publicly: Callable[[list[Any]], object]
) -> Callable[[list[Any]], object]:
    """Return the function that starts a compiled kernel by its own launcher, or publicly if Triton has launch hooks."""
    from triton import knobs
    from triton.runtime import _allocation, driver

    launch, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    stream_of, index, hooks = driver.active.get_current_stream, device.index, knobs.runtime
    allocator, scratch = _allocation._allocator, partial(aligned_bytes, device)

    def start(values: list[Any]) -> object:
        enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
        # Each is a chain of hooks, or what a user has set in the place of a chain.
        if getattr(enter, "calls", enter) or getattr(leave, "calls", leave):
            return start_publicly(values)
        return launch(programs, 1, 1, stream_of(index), function, metadata, None, None, None, *values)

    def start_with_scratch(values: list[Any]) -> object:
        before = allocator.set(scratch)
        try:
            return start(values)
        finally:
            allocator.reset(before)

    # AMD's kernels take no scratch, and their metadata has no size of it.
    return start_with_scratch if getattr(compiled.metadata, "global_scratch_size", 0) else start
