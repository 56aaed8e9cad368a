"""How a kernel that has run is started again: by its launcher, by Triton's public interface, or by the interpreter."""

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.launch.kept_descriptors import filled_descriptors, layouts_of, without_filling, wrapped
from tritonconv.launch.kept_plan import KeptLaunch, TritonRuntime
from tritonconv.launch.plan import Launch
from tritonconv.launch.scratch import scratch


def is_compiled(kernel: Any) -> bool:
    """Whether `kernel`, which starting a launch returned, is a kernel that Triton has compiled.

    It is not in the interpreter, nor while Triton still compiles in the background.
    """
    return hasattr(type(kernel), "__getitem__")


def has_proven_launcher(launch: Launch, compiled: Any) -> bool:
    """Whether the compiled kernel of a launch has a launcher of one of Triton's PROVEN versions, for NVIDIA's GPUs.

    If the kernel takes descriptors, it must have been compiled to copy by TMA, and its launcher must be Triton's own.
    """
    from triton.compiler import CompiledKernel

    proven = isinstance(compiled, CompiledKernel) and runtime.launchers_are_proven()
    if not proven or compiled.metadata.target.backend != "cuda":
        return False
    if len(layouts_of(compiled)) != len(launch.descriptors):
        return False
    return not launch.descriptors or wrapped(compiled.run) is not None


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
        kept = KeptArguments.of([arguments[name] for name in names], number_of)
        start = partial(start_compiled, device, compiled[(programs, 1, 1)], kept)
    else:
        names = list(arguments)
        kept = KeptArguments.of(list(arguments.values()), number_of)
        start = partial(start_interpreted, kernel, programs, names, kept)
    if not by_launcher:
        return KeptLaunch(start, None, None, None, programs, [], [], [])
    values, pointers, descriptors = launcher_arguments(kept, layouts_of(compiled))
    return KeptLaunch(
        start=start,
        launcher=without_filling(compiled.run) if descriptors else compiled.run,
        function=compiled.function,
        metadata=compiled.packed_metadata,
        programs=programs,
        values=values,
        pointers=pointers,
        descriptors=descriptors,
    )


class KeptArguments(NamedTuple):
    """The arguments of a launch by Triton's public interface, without tensors.

    `values` has None in the place of tensors, and descriptors without tensors. `numbers` has the number of the tensor
    for the position of each of these.
    """

    values: list[Any]
    numbers: dict[int, int]

    @classmethod
    def of(cls, values: list[Any], number_of: dict[int, int]) -> "KeptArguments":
        """Return these arguments without tensors. `number_of` has the number of each tensor by its address."""
        without_tensors, numbers = values.copy(), {}
        for i, value in enumerate(values):
            described = isinstance(value, HostDescriptor)
            tensor = value.tensor if described else value
            if isinstance(tensor, Tensor):
                numbers[i] = number_of[tensor.data_ptr()]
                without_tensors[i] = value._replace(tensor=None) if described else None
        return cls(without_tensors, numbers)

    def filled(self, tensors: list[Any]) -> list[Any]:
        """Return the arguments with these tensors, which are given by their numbers."""
        arguments = self.values.copy()
        for i, number in self.numbers.items():
            value, tensor = arguments[i], tensors[number]
            arguments[i] = tensor if value is None else value._replace(tensor=tensor).in_triton()
        return arguments


def start_compiled(device: torch.device, start: Callable[..., None], kept: KeptArguments, tensors: list[Any]) -> None:
    """Start a compiled kernel by Triton's public interface."""
    copy_context().run(with_scratch, device, start, *kept.filled(tensors))


def start_interpreted(kernel: Any, programs: int, names: list[str], kept: KeptArguments, tensors: list[Any]) -> None:
    """Start a kernel in the interpreter. `names` are those of its arguments and launch options."""
    kernel[(programs,)](**dict(zip(names, kept.filled(tensors), strict=True)))


def launcher_arguments(
    kept: KeptArguments, layouts: Sequence[Any]
) -> tuple[list[Any], list[tuple[int, int]], list[tuple[int, int, Callable[[int], Any]]]]:
    """Return the fields `values`, `pointers` and `descriptors` of a `KeptLaunch`.

    `layouts` are those of `layouts_of`. A launcher takes a descriptor as several arguments: the descriptor itself, its
    shape and its strides.
    """
    values: list[Any] = []
    pointers: list[tuple[int, int]] = []
    descriptors: list[tuple[int, int, Callable[[int], Any]]] = []
    for i, value in enumerate(kept.values):
        if isinstance(value, HostDescriptor):
            descriptor_at = filled_descriptors(value, layouts[len(descriptors)])
            descriptors.append((len(values), kept.numbers[i], descriptor_at))
            values += [None, *value.shape, *value.strides]
        else:
            if i in kept.numbers:
                pointers.append((len(values), kept.numbers[i]))
            values.append(value)
    return values, pointers, descriptors


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
