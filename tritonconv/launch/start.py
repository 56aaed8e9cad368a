"""Start the kernels of a plan, for the first time or again. No other module starts kernels."""

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tritonconv.launch.kept_plan import Direct, KeptLaunch, KeptPlan, allocators
from tritonconv.launch.layout import aligned_bytes
from tritonconv.launch.plan import Launch, Plan

# The first start of a kernel, which compiles and loads it, is not safe in several threads. Nor is the interpreter.
_starting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)

# The versions of Triton for which tests have proven that a compiled kernel's launcher takes what `run_again` passes.
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


def run_again(plan: KeptPlan, first: Tensor, second: Tensor, bias: Tensor | None) -> list[Any] | None:
    """Start the kernels of a kept plan with these operands, one thread at a time.

    Return the plan's tensors, by their numbers. Return None, and start nothing, if the plan can not be filled.
    """
    index = plan.index
    # The question is asked because `torch.cuda.device` takes much longer.
    if index is not None and torch.cuda.current_device() != index:
        with torch.cuda.device(index):
            return run_again(plan, first, second, bias)
    tensors = plan.filled(first, second, bias)
    if tensors is None:
        return None
    with _starting:
        direct = plan.direct
        # A user may have put a function in the place of Triton's chains of hooks, which then has no `calls`.
        if (
            direct is None
            or getattr(direct.hooks.launch_enter_hook, "calls", True)
            or getattr(direct.hooks.launch_exit_hook, "calls", True)
        ):
            for start, *_, values, pointers in plan.launches:
                start(filled_in(values, pointers, tensors))
            return tensors
        stream, before = direct.stream_of(index), direct.allocator.set(direct.scratch)
        try:
            for _, launch, function, metadata, programs, values, pointers in plan.launches:
                arguments = values.copy()  # as in `filled_in`, which takes longer
                for position, number in pointers:
                    arguments[position] = tensors[number]
                launch(programs, 1, 1, stream, function, metadata, None, None, None, *arguments)
        finally:
            direct.allocator.reset(before)
    return tensors


def filled_in(values: list[Any], pointers: list[tuple[int, int]], tensors: list[Any]) -> list[Any]:
    """Return the arguments of a launch: its values, with the tensors at their positions."""
    arguments = values.copy()
    for position, number in pointers:
        arguments[position] = tensors[number]
    return arguments


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


def kept_launch(
    launch: Launch, compiled: Any, device: torch.device, numbers: dict[int, int], direct: bool
) -> KeptLaunch:
    """Return a launch of a kept plan. `compiled` is what starting the launch returned.

    `numbers` has the number of each tensor, by its address. `direct` says that `Direct` can start the plan's launches.
    """
    kernel, programs, arguments = launch
    start: Callable[[list[Any]], object]
    if is_compiled(compiled):
        # A compiled kernel takes all parameters, constants included, and no launch options.
        names = kernel.arg_names
        start = partial(start_compiled, device, compiled[(programs, 1, 1)])
    else:
        names = list(arguments)
        start = partial(start_interpreted, kernel, programs, names)
    values = [arguments[name] for name in names]
    pointers = [(i, numbers[value.data_ptr()]) for i, value in enumerate(values) if isinstance(value, Tensor)]
    for i, _ in pointers:
        values[i] = None
    return KeptLaunch(
        start=start,
        launcher=compiled.run if direct else None,
        function=compiled.function if direct else None,
        metadata=compiled.packed_metadata if direct else None,
        programs=programs,
        values=values,
        pointers=pointers,
    )


def start_compiled(device: torch.device, start: Callable[..., None], values: list[Any]) -> None:
    copy_context().run(with_scratch, device, start, *values)


def start_interpreted(kernel: Any, programs: int, names: list[str], values: list[Any]) -> None:
    kernel[(programs,)](**dict(zip(names, values, strict=True)))


def is_direct(compiled: Any) -> bool:
    """Whether `Direct` can start a compiled kernel: whether tests have proven how to, for this version of Triton."""
    import triton

    return isinstance(compiled, triton.compiler.CompiledKernel) and triton.__version__.startswith(PROVEN)


def scratch(kind: str, size: int, alignment: int, _stream: int | None) -> Tensor:
    """Return memory on the current device, which is of this kind, as Triton asks for it."""
    memory = allocators[kind]((size,), (1,), torch.int8)
    return memory if memory.data_ptr() % alignment == 0 else aligned_bytes(torch.device(kind), size, alignment)


def direct_way(device: torch.device) -> Direct:
    """Return what it takes to call launchers of kernels on `device`."""
    import triton

    return Direct(
        stream_of=triton.runtime.driver.active.get_current_stream,
        hooks=triton.knobs.runtime,
        allocator=triton.runtime._allocation._allocator,
        scratch=partial(scratch, device.type),
    )
