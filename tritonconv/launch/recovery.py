"""What is done where a kernel can not be compiled or loaded: try again in another way, or leave it to the reference.

Only from errors that arise before the kernel is started, and only while the GPU is well: what goes wrong in a running
kernel is raised as it is.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from traceback import walk_tb
from typing import Any, NamedTuple

import torch

from tritonconv import runtime
from tritonconv.dispatch import Problem, choose_and_warn, give_up
from tritonconv.fallback_warning import FallbackWarning, warn_once
from tritonconv.launch import failed_tiles, plan_cache, planners, start
from tritonconv.launch.plan import Plan
from tritonconv.tiling.catalogue import least

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


def run(problem: Problem, wish: str, *arguments: Any) -> Plan | None:
    """Plan with `arguments` and start, or None where that failed and the reference must compute, now and from now on.

    Warns once for what was done. Where `wish` is "triton", raises NotImplementedError instead of returning None. What
    was done and did not help is taken back.
    """
    done: dict[str, Remedy] = {}
    while True:
        plan = planners.PLANS[problem.operator](*arguments)
        try:
            start.run(plan)
        except Exception as error:
            if runtime.interpreted():
                raise
            forget_unfinished(plan)
            fault = fault_of(error)
            if fault is None:
                raise
            ask(problem.device)
            remedy = None if fault in done else attempt(fault, error, plan, problem)
            if remedy is None:
                take_back(done)
                leave_to_reference(problem, wish, error)
                return None
            done[fault] = remedy
            plan_cache.clear()
        else:
            try:
                for fault, remedy in done.items():
                    warn_once(remedy.what, "cache" if fault == "cache" else remedy.what)
            except FallbackWarning:
                # An error by the user's filter, and so the next time, too.
                take_back(done)
                raise
            return plan
        del plan  # its results are too large to keep while planning again


def take_back(done: dict[str, Remedy]) -> None:
    for remedy in done.values():
        remedy.undo()


def fault_of(error: Exception) -> str | None:
    """What is to blame: the "size" of the tile, the "cache", the "kernel" or the "driver". None: not to be hidden."""
    from triton.runtime.errors import OutOfResources

    where = places(error)
    if isinstance(error, torch.AcceleratorError | MemoryError) or not where & (PREPARING | BUILDING):
        return None
    if isinstance(error, OutOfResources):
        return "size"
    if str(error).startswith(("Triton Error [", "CUDA error", "HIP error")):
        return "cache" if any(words in str(error) for words in DAMAGED) else None
    # Of damaged metadata: no JSON, not even text, or without what should be in it.
    if isinstance(error, OSError | ValueError | KeyError | StopIteration):
        return "cache"
    return "driver" if where & BUILDING else "kernel"


def places(error: Exception) -> set[str]:
    """The functions of Triton that `error` came through."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return {f.f_code.co_name for f in frames if f.f_globals.get("__name__", "").startswith("triton.")}


def ask(device: torch.device) -> None:
    """Raises what ails the GPU, if something does. One that is recording a graph can not be asked."""
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(device)


def attempt(fault: str, error: Exception, plan: Plan, problem: Problem) -> Remedy | None:
    """Change what may let `plan` succeed. None if there is nothing to change."""
    if fault == "size":
        smallest = least(problem.operator, problem.dtype.itemsize, problem.geometry.varies)
        tile = replace(plan.tile, SPLIT_K=1)
        if tile == smallest:
            return None
        unfit = (problem.operator, runtime.gpu_of(problem.device), tile)
        failed_tiles.too_large.add(unfit)
        return Remedy(
            f"{problem.operator} runs with tile {smallest}, because {tile} does not fit this GPU: {error}",
            partial(failed_tiles.too_large.discard, unfit),
        )
    if fault == "kernel" and plan.tile.uses_tma:
        unable = (problem.operator, runtime.gpu_of(problem.device))
        failed_tiles.gathered_only.add(unable)
        return Remedy(
            f"{problem.operator} gathers pixels one by one, because whole blocks of them can not be copied here: "
            f"{short(error)}",
            partial(failed_tiles.gathered_only.discard, unable),
        )
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


def leave_to_reference(problem: Problem, wish: str, error: Exception) -> None:
    """Remember why Triton can not run `problem`, and warn. NotImplementedError if it must."""
    everywhere = isinstance(error, OSError) or bool(places(error) & BUILDING)
    dtype = str(problem.dtype).removeprefix("torch.")
    varies = f" and a weight that varies over {problem.geometry.varies}" if problem.geometry.varies else ""
    what = "Triton does not work here" if everywhere else f"{problem.operator} can not be compiled for {dtype}{varies}"
    give_up(problem, f"{what}: {short(error)}", everywhere)
    plan_cache.clear()
    try:
        choose_and_warn(problem, wish)
    except NotImplementedError as refusal:
        raise refusal from error


def short(error: Exception) -> str:
    """The line of the error that says most: Triton's compiler shows the source first."""
    from triton.compiler.errors import CompilationError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, CompilationError) else 0]}"
