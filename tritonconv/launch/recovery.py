"""What is done if a kernel can not be compiled or loaded: try again in another way, or leave the call to the reference.

Only errors that arise before a kernel is started are handled, and only while the GPU responds. An error of a running
kernel is raised.
"""

from collections.abc import Hashable
from traceback import walk_tb

import torch

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.fallback_warning import warn_once
from tritonconv.launch import failures
from tritonconv.launch.failures import NoKernel, NoTriton
from tritonconv.launch.plan import Launch, Plan
from tritonconv.launch.remedies import CACHE, Remedy, apply_remedy, short

# Functions of Triton that run before a kernel is started. If Triton renames them, their errors are raised.
PREPARING = {"compile", "_init_handles", "_raise_error"}
# Functions that build what all kernels need, with a C compiler.
BUILDING = {"compile_module_from_src", "_create_driver"}
# What the GPU's driver says of a binary that was damaged on disk. Its other errors are raised.
DAMAGED = ("kernel image", "named symbol not found")
# Triton's function that fills a TMA descriptor on the host, before the kernel is started.
DESCRIBING = {"make_tensordesc_arg"}
# What some drivers say if a kernel is loaded while a CUDA graph is captured, and what the user reads below that.
CAPTURING = "not permitted when stream is capturing"
BEFORE_A_CAPTURE = (
    "tritonconv: kernels must be loaded before a CUDA graph is captured. Run a few steps before that, with inputs of "
    "the same shapes, or call tritonconv.warmup"
)


class Recovery:
    """A context manager that lets one call succeed in spite of faults, and tries each remedy at most once.

    At its end, the remedies are given up unless the call has succeeded with them.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.remedies: dict[Hashable, Remedy] = {}
        self.gave_up = False

    def __enter__(self) -> "Recovery":
        return self

    def __exit__(self, *_: object) -> None:
        for remedy in self.remedies.values():
            remedy.give_up()

    def handle(self, error: Exception, plan: Plan) -> bool:
        """Apply a remedy for `error`, which stopped `plan`, or give up. Return whether to decide the call again.

        If no remedy is left that was not tried yet, `give_up` keeps Triton from running calls like this one. In both
        cases the result is True. It is False if the caller must raise the error, as always in the interpreter. Raise
        the GPU's own error instead if it has one.
        """
        if runtime.interpreted():
            return False
        forget_unfinished(plan.launches)
        fault = fault_of(error)
        if fault is None:
            if CAPTURING in str(error) and functions_of_triton(error) & PREPARING:
                error.add_note(BEFORE_A_CAPTURE)
            return False
        check_gpu(self.call.device)
        remedy = apply_remedy(fault, error, plan, self.call)
        if remedy is not None and remedy.change not in self.remedies:
            self.remedies[remedy.change] = remedy
            return True
        if remedy is not None:
            remedy.give_up()  # this call now tries it twice
        give_up(self.call, error)
        self.gave_up = True
        return True

    def succeed(self) -> None:
        """Keep the remedies, and warn of them once for each reason.

        They are not kept if the user's filter turns a warning into an error, so that the next call raises it, too.
        """
        for remedy in self.remedies.values():
            warn_once(remedy.reason, "cache" if remedy.change == CACHE else remedy.reason)
        for remedy in self.remedies.values():
            remedy.succeed()
        self.remedies.clear()  # so that none is given up


def fault_of(error: Exception) -> str | None:
    """Return what is to blame: the "size" of the tile, "descriptors", the "cache", the "kernel" or the "driver".

    None means that the error must not be hidden: the caller raises it.
    """
    from triton.runtime.errors import OutOfResources

    where = functions_of_triton(error)
    if isinstance(error, torch.AcceleratorError | MemoryError) or not where & (PREPARING | BUILDING | DESCRIBING):
        return None
    if where & DESCRIBING:
        return "descriptors"
    if isinstance(error, OutOfResources):
        return "size"
    if str(error).startswith(("Triton Error [", "CUDA error", "HIP error")):
        return "cache" if any(words in str(error) for words in DAMAGED) else None
    # These errors come from damaged metadata in Triton's cache: it is not JSON, not text, or not complete.
    if isinstance(error, OSError | ValueError | KeyError | StopIteration):
        return "cache"
    return "driver" if where & BUILDING else "kernel"


def functions_of_triton(error: Exception) -> set[str]:
    """Return the names of Triton's functions in the traceback of `error`."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return {f.f_code.co_name for f in frames if f.f_globals.get("__name__", "").startswith("triton.")}


def check_gpu(device: torch.device) -> None:
    """Raise the GPU's error if it has one. Other devices, and a GPU that is recording a CUDA graph, are not checked."""
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(device)


def forget_unfinished(launches: list[Launch]) -> None:
    """Drop from Triton's memory those kernels of these launches that were not loaded completely.

    Triton would load the same bytes again. If its launch hooks are set to None, it would start a kernel that is not
    there.
    """
    for each in launches:
        for held, *_ in list(each.kernel.device_caches.values()):
            for key, compiled in list(held.items()):
                if getattr(compiled, "module", None) is None:
                    held.pop(key, None)


def give_up(call: Call, error: Exception) -> None:
    """Remember that Triton can not run calls like this one, and why.

    If Triton can build nothing here, this holds for all calls on the device. Otherwise it holds for the call's kernel.
    """
    everywhere = isinstance(error, OSError) or bool(functions_of_triton(error) & BUILDING)
    dtype = str(call.dtype).removeprefix("torch.")
    varies = f" and a weight that varies over {call.settings.varies}" if call.settings.varies else ""
    what = "Triton does not work here" if everywhere else f"{call.operator} can not be compiled for {dtype}{varies}"
    failures.add(NoTriton(call.device) if everywhere else NoKernel.of(call), f"{what}: {short(error)}")
