"""Compile kernels in parallel processes for `warmup`. The results are passed on through Triton's cache on disk."""

import os
import pickle
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tritonconv.launch.launchers import is_compiled
from tritonconv.launch.plan import Launch
from tritonconv.launch.recovery import forget_unfinished
from tritonconv.launch.start import starting
from tritonconv.tools.worker_process import WorkerProcess, started


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# How many seconds worker processes may take, all together: the first number, and the second for each kernel. Importing
# torch and Triton takes a CPU a few seconds, and a kernel about one. So this is enough for one CPU, even if each kernel
# has a process of its own, and for a disk that takes a minute to deliver the modules.
START_LIMIT, KERNEL_LIMIT = 120.0, 10.0


def compile_all(jobs: list[Launch], processes: int) -> tuple[int, int, int, int]:
    """Compile `jobs` in up to `processes` processes. Then load the kernels here, and compile those that are missing.

    Returns four counts:

    - the kernels that other processes compiled
    - the processes that were to compile; if any fails, a warning names the first reason
    - the kernels that this process compiled
    - the kernels that could not be compiled; a warning names the first, and `launch.recovery` handles them when they
      are launched

    Kernels that Triton's cache had already are in none of the counts.
    """
    from triton import knobs
    from triton.runtime import driver

    target = driver.active.get_current_target()
    shares = [jobs[i::processes] for i in range(min(processes, len(jobs)))]
    elsewhere, reasons = compile_elsewhere(shares, target)
    if reasons:
        message = (
            f"tritonconv.warmup: {len(reasons)} of {len(shares)} processes that compile kernels failed. This process "
            f"compiles what is missing. The first reason: {reasons[0]}"
        )
        warnings.warn(message, stacklevel=3)
    failures = []
    with knobs.compilation.scope():
        missed = count_misses(knobs)
        for job in jobs:
            try:
                compiled = job.kernel.warmup(grid=(job.programs,), **job.in_triton())
            except Exception as error:
                said = (str(error).strip().splitlines() or [""])[0]
                failures.append(f"{job.kernel.__name__}: {type(error).__name__}: {said}")
            else:
                load(job, compiled)
    if failures:
        message = (
            f"tritonconv.warmup: {len(failures)} of {len(jobs)} kernels can not be compiled. The training step tries "
            f"again, and falls back to the reference if it fails, too. The first error: {failures[0]}"
        )
        warnings.warn(message, stacklevel=3)
    return elsewhere, len(shares), len(missed), len(failures)


def load(job: Launch, compiled: Any) -> None:
    """Load a compiled kernel onto the current GPU, which Triton otherwise does when it starts the kernel.

    Some drivers load nothing while a CUDA graph is captured. If a kernel can not be loaded, the training step tries
    again, and handles the error.
    """
    if is_compiled(compiled):
        with starting:
            try:
                compiled[(job.programs, 1, 1)]  # loads the kernel, and returns a function that would start it
            except Exception:
                forget_unfinished([job])


def count_misses(knobs: Any) -> list[None]:
    """Return a list that grows by one None for each kernel that Triton compiles in this process from now on.

    A kernel that Triton finds in its cache does not count. The listener is set in `knobs`, Triton's settings.
    """
    missed: list[None] = []

    def listener(*, cache_hit: bool, **_: Any) -> None:
        missed.extend([None] * (not cache_hit))

    knobs.compilation.listener = listener
    return missed


def compile_elsewhere(shares: list[list[Launch]], target: Any) -> tuple[int, list[str]]:
    """Compile each share in a new process for the GPU `target`. Return how many kernels these processes compiled.

    Also return, for each process that failed, the reason. Kernels in Triton's cache do not count, and neither do those
    of a process that failed. When this function ends, by an exception too, none of the processes is running any more.
    """
    start, limit = time.monotonic(), START_LIMIT + KERNEL_LIMIT * sum(map(len, shares))
    workers: list[tuple[WorkerProcess, int]] = []
    compiled, reasons = 0, []
    with ExitStack() as running:
        for share in shares:
            try:
                process = running.enter_context(started(CODE, pickle.dumps((target, portable(share)))))
                workers.append((process, len(share)))
            except Exception as error:
                reasons.append(f"it could not be started: {type(error).__name__}: {error}")
        for process, kernels in workers:
            try:
                compiled += checked(process.answer(start, limit), kernels)
            except Exception as error:
                reasons.append(str(error) or type(error).__name__)
    return compiled, reasons


CODE = "from tritonconv.tools.parallel_compile import worker; worker()"


def portable(jobs: list[Launch]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return module, name and arguments of each kernel, in a form that can be pickled: with dtypes as the tensors."""
    return [
        (job.kernel.__module__, job.kernel.__name__, tree_map_only(Tensor, lambda t: t.dtype, job.arguments))
        for job in jobs
    ]


def checked(answer: bytes, kernels: int) -> int:
    """Return how many of `kernels` kernels a process has compiled, by its answer. Raise ValueError if it is wrong."""
    with suppress(ValueError):
        if 0 <= int(answer) <= kernels:
            return int(answer)
    raise ValueError(f"it answered {answer[:40]!r} instead of how many of its {kernels} kernels it compiled")


def worker() -> None:
    """Compile the jobs from stdin, in a process that `compile_elsewhere` starts, and answer how many were compiled.

    Jobs in Triton's cache do not count. The process compiles offline for the GPU that stdin names, without using a GPU.
    The answer goes to the file that the first argument of the process names.
    """
    from triton import knobs
    from triton.runtime import driver

    target, jobs = pickle.load(sys.stdin.buffer)
    missed = count_misses(knobs)
    driver.set_active(Elsewhere(target))
    for module, name, arguments in jobs:
        kernel = getattr(import_module(module), name)
        tensors = tree_map_only(torch.dtype, lambda dtype: torch.empty(0, dtype=dtype, device="meta"), arguments)
        kernel.warmup(grid=(1,), **Launch(kernel, 1, tensors).in_triton())
    Path(sys.argv[1]).write_text(str(len(missed)))


class Elsewhere:
    """A stand-in for Triton's driver, for offline compilation: it names the GPU `target` and runs nothing."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
