"""What is done where a kernel can not be compiled or loaded: try again in another way, or leave it to the reference.

Only errors that arise before a kernel is started are handled, and only while the GPU responds. An error of a running
kernel is raised.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from traceback import walk_tb
from typing import NamedTuple

import torch

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.fallback_warning import warn_once
from tritonconv.launch import failures
from tritonconv.launch.failures import Failure, NoKernel, NoTma, NoTriton, TileTooLarge
from tritonconv.launch.plan import Plan
from tritonconv.tiling.catalogue import smallest_tile

# Functions of Triton that are done before it starts a kernel. Should it rename them, their errors are raised.
PREPARING = {"compile", "_init_handles", "_raise_error"}
# Those that build what all kernels need, with a C compiler.
BUILDING = {"compile_module_from_src", "_create_driver"}
# What the GPU's driver says of a binary that was damaged on disk. All else that it says is raised.
DAMAGED = ("kernel image", "named symbol not found")


class Remedy(NamedTuple):
    """What was changed so that a plan may succeed, and how to take it back."""

    what: str
    undo: Callable[[], object]


class Recovery:
    """What is done so that one call may succeed: at most one remedy for each fault.

    A context manager. At its end, remedies are taken back unless the call has succeeded with them.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.remedies: dict[str, Remedy] = {}
        self.gave_up = False

    def __enter__(self) -> "Recovery":
        return self

    def __exit__(self, *_: object) -> None:
        for remedy in self.remedies.values():
            remedy.undo()

    def handle(self, error: Exception, plan: Plan) -> bool:
        """Do something about `error`, which has stopped `plan`: then decide the call again.

        Either a remedy is applied, or none is left and from now on Triton does not run such calls. Returns False, and
        does nothing, where the error must be raised.
        """
        if runtime.interpreted():
            return False
        forget_unfinished(plan)
        fault = fault_of(error)
        if fault is None:
            return False
        check_gpu(self.call.device)
        remedy = None if fault in self.remedies else apply_remedy(fault, error, plan, self.call)
        if remedy is not None:
            self.remedies[fault] = remedy
        else:
            give_up(self.call, error)
            self.gave_up = True
        return True

    def succeed(self) -> None:
        """Warn of the remedies, once for each reason, and keep them.

        They are not kept where the user's filter makes the warning an error, so that the next call raises it, too.
        """
        for fault, remedy in self.remedies.items():
            warn_once(remedy.what, "cache" if fault == "cache" else remedy.what)
        self.remedies.clear()  # nothing is to be taken back


def fault_of(error: Exception) -> str | None:
    """What is to blame: the "size" of the tile, the "cache", the "kernel" or the "driver". None: not to be hidden."""
    from triton.runtime.errors import OutOfResources

    where = functions_of_triton(error)
    if isinstance(error, torch.AcceleratorError | MemoryError) or not where & (PREPARING | BUILDING):
        return None
    if isinstance(error, OutOfResources):
        return "size"
    if str(error).startswith(("Triton Error [", "CUDA error", "HIP error")):
        return "cache" if any(words in str(error) for words in DAMAGED) else None
    # The metadata in Triton's cache is damaged: not JSON, not text, or not complete.
    if isinstance(error, OSError | ValueError | KeyError | StopIteration):
        return "cache"
    return "driver" if where & BUILDING else "kernel"


def functions_of_triton(error: Exception) -> set[str]:
    """The functions of Triton that `error` came through."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return {f.f_code.co_name for f in frames if f.f_globals.get("__name__", "").startswith("triton.")}


def check_gpu(device: torch.device) -> None:
    """Raise what is wrong with the GPU, if something is. A GPU that is recording a graph is not checked."""
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(device)


def apply_remedy(fault: str, error: Exception, plan: Plan, call: Call) -> Remedy | None:
    """Change what may let another plan succeed. None if there is nothing to change."""
    operator, gpu = call.operator, plan.request.gpu
    if fault == "size":
        smallest = smallest_tile(operator, call.dtype.itemsize, call.settings.varies)
        tile = replace(plan.tile, SPLIT_K=1)
        if tile == smallest:
            return None
        what = f"{operator} runs with tile {smallest}, because {tile} does not fit this GPU: {error}"
        return avoid(TileTooLarge(operator, gpu, tile), what)
    if fault == "kernel" and plan.tile.uses_tma:
        what = (
            f"{operator} gathers pixels one by one, because whole blocks of them can not be copied here: {short(error)}"
        )
        return avoid(NoTma(operator, gpu), what)
    if fault == "cache":
        from triton import knobs

        before = knobs.cache.dir
        try:
            knobs.cache.dir = private_folder()
        except OSError:
            return None
        return Remedy(
            f"Triton's cache in {before} failed, and a temporary folder takes its place: {short(error)}",
            partial(setattr, knobs.cache, "dir", before),
        )
    return None


def avoid(failure: Failure, what: str) -> Remedy:
    """Plan without what has failed."""
    failures.add(failure, what)
    return Remedy(what, partial(failures.remove, failure))


@cache
def private_folder() -> str:
    """A folder for this process, which it removes at its end."""
    folder, owner = tempfile.mkdtemp(prefix="tritonconv-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def forget_unfinished(plan: Plan) -> None:
    """Drop from memory the kernels that were not loaded to the end.

    Triton would load the same bytes again, or, where its launch hooks were set to None, start what is not there.
    """
    for each in plan.launches:
        for held, *_ in list(each.kernel.device_caches.values()):
            for key, compiled in list(held.items()):
                if getattr(compiled, "module", None) is None:
                    held.pop(key, None)


def give_up(call: Call, error: Exception) -> None:
    """Remember that Triton can not run calls such as this one, and why."""
    everywhere = isinstance(error, OSError) or bool(functions_of_triton(error) & BUILDING)
    dtype = str(call.dtype).removeprefix("torch.")
    varies = f" and a weight that varies over {call.settings.varies}" if call.settings.varies else ""
    what = "Triton does not work here" if everywhere else f"{call.operator} can not be compiled for {dtype}{varies}"
    failures.add(NoTriton(call.device) if everywhere else NoKernel.of(call), f"{what}: {short(error)}")


def short(error: Exception) -> str:
    """The line of the error that says most: Triton's compiler shows the source first."""
    from triton.compiler.errors import CompilationError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, CompilationError) else 0]}"
