"""A pretended capture of a CUDA graph on the pretended GPU: what a real one forbids raises an error.

Use it in a process of its own (`processes.seen`), which imports `tests.support.pretend` before anything else.
"""

import gc
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from tests.support.triton_launchers import Recording, recording_gpu
from tritonconv.launch import scratch

# What Triton may do during a capture: start a kernel, and fill a TMA descriptor, which CUDA does on the host alone.
PERMITTED = {"start", "describe"}
# What may be asked of torch.cuda during a capture. The first two ask for no GPU, and the last one for the capture.
ALLOWED = {"is_available", "is_initialized", "is_current_stream_capturing"}
# Methods that wait for a GPU, because they bring numbers to the host.
WAITING = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")


class NotPermitted(RuntimeError):
    """What a GPU's driver would raise, and thereby end the capture."""


class Captured:
    """What launches have used while a capture was pretended.

    `kernels` are their names. `used` are the storages of their tensors, which are kept alive, so that no two have the
    same address. `asked` is what was forbidden and was called.
    """

    def __init__(self) -> None:
        self.kernels: list[str] = []
        self.used: list[Any] = []
        self.asked: list[str] = []
        self.active = False


def forbid(captured: Captured, owner: Any, name: str) -> None:
    """Let a function raise an error, and note its name, while a capture is pretended."""
    function = getattr(owner, name)

    @wraps(function)
    def refuse(*arguments: Any, **more: Any) -> Any:
        if captured.active:
            captured.asked.append(name)
            raise NotPermitted(f"{name}: operation not permitted when stream is capturing")
        return function(*arguments, **more)

    setattr(owner, name, refuse)


def install() -> tuple[Recording, Captured]:
    """Install a pretended GPU with Triton's own launchers. Forbid what must not happen while `capturing`."""
    gpu, captured = recording_gpu(), Captured()
    functions = (types.FunctionType, types.BuiltinFunctionType)
    for name, value in list(vars(torch.cuda).items()):
        if isinstance(value, functions) and name not in ALLOWED and not name.startswith("_"):
            forbid(captured, torch.cuda, name)
    for name in WAITING:
        forbid(captured, Tensor, name)

    def happens(what: str) -> None:
        if captured.active and what not in PERMITTED:
            captured.asked.append(what)
            raise NotPermitted(f"Triton Error [CUDA]: {what}: operation not permitted when stream is capturing")

    start = gpu.start

    def started(kernel: Any, programs: int, arguments: dict[str, Any]) -> None:
        """Compute a launch outside of the capture, because sending tensors to the interpreter reads their numbers."""
        active, captured.active = captured.active, False
        start(kernel, programs, arguments)
        captured.active = active
        if active:
            captured.kernels.append(kernel.__name__)

    def launched(*values: Any) -> None:
        """Stand for the function in C. It gets the scratch memory, too."""
        if captured.active:
            captured.used += [each.untyped_storage() for each in tensors_in(values)]

    gpu.hook, gpu.start, gpu.launch = happens, started, launched  # type: ignore[method-assign]
    return gpu, captured


def tensors_in(values: Any) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from tensors_in(each)


def alive() -> dict[int, Tensor]:
    """Return all tensors that Python knows of, by the addresses of their storages."""
    gc.collect()
    return {
        each.untyped_storage().data_ptr(): each
        for each in gc.get_objects()
        if issubclass(type(each), Tensor) and each.device.type == "cpu" and each.layout == torch.strided
    }


@contextmanager
def capturing(captured: Captured) -> Iterator[None]:
    """Within this block, pretend that the current stream is being captured."""
    before = scratch.is_capturing["cpu"], torch.cuda.is_current_stream_capturing
    scratch.is_capturing["cpu"] = torch.cuda.is_current_stream_capturing = lambda: True
    captured.active = True
    try:
        yield
    finally:
        captured.active = False
        scratch.is_capturing["cpu"], torch.cuda.is_current_stream_capturing = before


def observed(captured: Captured, step: Callable[[], list[Tensor]], own: list[Tensor]) -> dict[str, Any]:
    """Pretend to capture a step, and return what happened. The step returns tensors, or raises what `refuse` raises.

    `own` are the tensors that the step reads and were there before: inputs, parameters and their gradients.

    - "kernels", "asked": see `Captured`
    - "of others": how many tensors kernels have used that were there before, but not among `own`
    - "kept": how many tensors are still there that were not there before, apart from those that the step returned
    - "buffers changed": whether the buffers of scratch memory changed
    """
    captured.kernels, captured.used, captured.asked = [], [], []
    before, buffers = alive(), dict(scratch.buffers)
    mine = {each.untyped_storage().data_ptr() for each in own}
    results: list[Tensor] = []
    with capturing(captured), suppress(NotPermitted):
        results = step()
    returned = {each.untyped_storage().data_ptr() for each in results}
    others = {each.data_ptr() for each in captured.used} & (before.keys() - mine)
    changed = buffers.keys() != scratch.buffers.keys() or any(
        scratch.buffers[key] is not buffers[key] for key in buffers
    )
    kept = alive().keys() - before.keys() - returned
    return {
        "kernels": captured.kernels,
        "asked": captured.asked,
        "of others": len(others),
        "kept": len(kept),
        "buffers changed": changed,
    }
