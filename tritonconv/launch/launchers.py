"""How a kernel that has run is started again: by its launcher, by Triton's public interface, or by the interpreter."""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tritonconv.launch.kept_plan import KeptLaunch, TritonRuntime
from tritonconv.launch.plan import Launch
from tritonconv.launch.scratch import scratch

# A compiled kernel's launcher is private to Triton. Tests have compared how `start.run_again` calls it with how Triton
# does, for these versions. With others, kernels are started by Triton's public interface.
PROVEN = ("3.6.", "3.7.", "3.8.", "3.9.")


def is_compiled(kernel: Any) -> bool:
    """Whether `kernel`, which starting a launch returned, is a kernel that Triton has compiled.

    It is not in the interpreter, nor while Triton still compiles in the background.
    """
    return hasattr(type(kernel), "__getitem__")


def has_proven_launcher(compiled: Any) -> bool:
    """Whether a compiled kernel has a launcher of one of the PROVEN versions, for NVIDIA's GPUs."""
    from triton import __version__
    from triton.compiler import CompiledKernel

    proven = isinstance(compiled, CompiledKernel) and __version__.startswith(PROVEN)
    return proven and compiled.metadata.target.backend == "cuda"


def kept_launch(
    launch: Launch, compiled: Any, device: torch.device, number_of: dict[int, int], by_launcher: bool
) -> KeptLaunch:
    """Return a launch without its tensors. `compiled` is what starting the launch returned.

    `number_of` has the number of each tensor in the plan, by its address. `by_launcher` says that all kernels of the
    plan have proven launchers.
    """
    kernel, programs, arguments = launch
    start: Callable[[list[Any]], object]  # holds the compiled kernel, which Triton unloads when nothing else does
    if is_compiled(compiled):
        # A compiled kernel takes all parameters, constants included, and no launch options.
        names = kernel.arg_names
        start = partial(start_compiled, device, compiled[(programs, 1, 1)])
    else:
        names = list(arguments)
        start = partial(start_interpreted, kernel, programs, names)
    values = [arguments[name] for name in names]
    pointers = [(i, number_of[value.data_ptr()]) for i, value in enumerate(values) if isinstance(value, Tensor)]
    for i, _ in pointers:
        values[i] = None
    return KeptLaunch(
        start=start,
        launcher=compiled.run if by_launcher else None,
        function=compiled.function if by_launcher else None,
        metadata=compiled.packed_metadata if by_launcher else None,
        programs=programs,
        values=values,
        pointers=pointers,
    )


def start_compiled(device: torch.device, start: Callable[..., None], values: list[Any]) -> None:
    """Start a compiled kernel by Triton's public interface."""
    copy_context().run(with_scratch, device, start, *values)


def start_interpreted(kernel: Any, programs: int, names: list[str], values: list[Any]) -> None:
    """Start a kernel in the interpreter. `names` are those of its arguments and launch options."""
    kernel[(programs,)](**dict(zip(names, values, strict=True)))


def with_scratch(device: torch.device, start: Callable[..., Any], *arguments: Any) -> Any:
    """Call `start`, which starts kernels that may use TMA, and return what it returns.

    The programs build their own TMA descriptors, in memory that Triton asks its allocator for. Triton keeps the
    allocator in a context variable, which this sets. So it is to be called in a copy of the context.
    """
    import triton

    triton.set_allocator(partial(scratch, device, device.type))
    return start(*arguments)


def triton_runtime(device: torch.device) -> TritonRuntime:
    """Return what `start.run_again` needs of Triton to call the launchers of kernels on `device`."""
    from triton import knobs
    from triton.runtime import _allocation, driver

    return TritonRuntime(
        stream_of=driver.active.get_current_stream,
        hooks=knobs.runtime,
        allocator=_allocation._allocator,
        scratch=partial(scratch, device, device.type),
    )
