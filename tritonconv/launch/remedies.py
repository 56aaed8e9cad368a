"""What may let a plan succeed after a fault: another tile, no TMA or other descriptors, or another cache for Triton.

A remedy is a change that all threads see, so several calls may need the same one at once. The first of them makes it.
It is undone once all of them have given it up, unless one of them has succeeded with it.
"""

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

from tritonconv.call import Call
from tritonconv.launch import failures
from tritonconv.launch.failures import Failure, NoDependentLaunch, NoHostDescriptors, NoTma, TileTooLarge
from tritonconv.launch.plan import Plan
from tritonconv.tiling.catalogue import smallest_tile

# The environment variable with the folder of Triton's cache. It also stands for the change of that folder.
CACHE = "TRITON_CACHE_DIR"


class Trial:
    """A change that no call has succeeded with yet: how many calls try it, and the function that undoes it."""

    def __init__(self, undo: Callable[[], object]) -> None:
        self.calls, self.undo = 1, undo


_trials: dict[Hashable, Trial] = {}
# Held while changes are made, counted or undone. It is taken before the caches' lock, also by a fork.
_changing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_changing.release)


class Remedy(NamedTuple):
    """A change that may let another plan succeed, and the reason, which the user is told.

    Whoever holds a remedy calls either `give_up` or `succeed`, once. `trial` is None if the change was there before.
    """

    change: Hashable
    reason: str
    trial: Trial | None

    def give_up(self) -> None:
        """Undo the change, unless other calls still try it or one has succeeded with it."""
        with _changing:
            trial = self.trial
            if trial is None or _trials.get(self.change) is not trial:
                return
            trial.calls -= 1
            if trial.calls == 0:
                del _trials[self.change]
                trial.undo()

    def succeed(self) -> None:
        """Leave the change as it is from now on, also if other calls that try it give it up."""
        with _changing:
            if _trials.get(self.change) is self.trial:
                _trials.pop(self.change, None)


def try_out(change: Hashable, make: Callable[[], Callable[[], object] | None]) -> Trial | None:
    """Make a change that a call tries, or count the call if others try the same change. Return the trial.

    `make` makes the change, and returns the function that undoes it. It returns None if the change was there before.
    This then returns None, too.
    """
    with _changing:
        trial = _trials.get(change)
        if trial is not None:
            trial.calls += 1
            return trial
        undo = make()
        if undo is None:
            return None
        _trials[change] = trial = Trial(undo)
        return trial


def apply_remedy(fault: str, error: Exception, plan: Plan, call: Call) -> Remedy | None:
    """Change something that may let another plan succeed, and return the remedy. None if nothing can be changed.

    A tile that was too large is avoided, unless it is the smallest. A TMA kernel that did not compile is avoided. If it
    takes descriptors that the host makes, these are avoided first, and the kernel only if it fails again. Descriptors
    that the host can not make are avoided. So are dependent launches that did not compile, before anything else of the
    kernel. A cache that failed is replaced by a temporary folder, if one can be made.
    """
    operator, gpu = call.operator, plan.request.gpu
    if fault == "size":
        smallest = smallest_tile(operator, call.dtype.itemsize, call.settings.varies)
        tile = replace(plan.tile, SPLIT_K=1)
        if tile == smallest:
            return None
        reason = f"{operator} runs with tile {smallest}, the smallest, because {tile} does not fit this GPU: {error}"
        return avoid(TileTooLarge(operator, gpu, tile), reason)
    if fault == "kernel" and plan.launches[-1].arguments.get("launch_pdl"):
        reason = f"{operator} has no dependent launch, because its kernels can not be compiled for one: {short(error)}"
        return avoid(NoDependentLaunch(gpu), reason)
    if fault == "descriptors" or (fault == "kernel" and plan.launches[0].descriptors):
        reason = f"the programs of {operator} build their TMA descriptors, because the host's fail: {short(error)}"
        return avoid(NoHostDescriptors(operator, gpu), reason)
    if fault == "kernel" and plan.tile.uses_tma:
        reason = f"{operator} gathers pixels one by one, because its TMA kernel can not be compiled: {short(error)}"
        return avoid(NoTma(operator, gpu), reason)
    return replace_cache(error) if fault == "cache" else None


def avoid(failure: Failure, reason: str) -> Remedy:
    """Remember a failure, so that the next plan avoids it, and return the remedy."""

    def make() -> Callable[[], object] | None:
        if failures.happened(failure):
            return None
        failures.add(failure, reason)
        return partial(failures.remove, failure)

    return Remedy(failure, reason, try_out(failure, make))


# The folder of Triton's cache that a temporary one has replaced.
_replaced = ""


def replace_cache(error: Exception) -> Remedy | None:
    """Let Triton cache in a temporary folder, and return the remedy. None if no such folder can be made."""
    with _changing:  # so that all threads get the same folder
        try:
            folder = private_folder()
        except OSError:
            return None
        trial = try_out(CACHE, partial(cache_in, folder))
        reason = f"Triton's cache in {_replaced} failed, and a temporary folder takes its place: {short(error)}"
        return Remedy(CACHE, reason, trial)


def cache_in(folder: str) -> Callable[[], object] | None:
    """Let Triton cache in `folder`. Return the function that undoes this, or None if Triton already did.

    Triton sets the environment variable, too. What was set before is set again: the knob, the variable, or neither.
    """
    global _replaced
    from triton import knobs

    if knobs.cache.dir == folder:
        return None
    _replaced = knobs.cache.dir
    knob, variable = vars(knobs.cache).get("dir"), os.environ.get(CACHE)
    knobs.cache.dir = folder

    def undo() -> None:
        del knobs.cache.dir
        if knob is not None:
            knobs.cache.dir = knob
        os.environ.pop(CACHE, None)
        if variable is not None:
            os.environ[CACHE] = variable

    return undo


@cache
def private_folder() -> str:
    """Return a temporary folder for this process, always the same, which is removed when the process ends."""
    folder, owner = tempfile.mkdtemp(prefix="tritonconv-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def short(error: Exception) -> str:
    """Return the type of the error, and the line of its message that says most.

    That is the last line if Triton's compiler raised the error, because the compiler shows the source first. Otherwise
    it is the first line.
    """
    from triton.compiler.errors import CompilationError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, CompilationError) else 0]}"
