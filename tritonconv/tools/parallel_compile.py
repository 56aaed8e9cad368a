"""Compile kernels in parallel processes for `warmup`. The results are passed on through Triton's cache on disk."""

import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tritonconv.launch.plan import Launch


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_all(jobs: list[Launch], processes: int) -> tuple[int, int, int, int]:
    """Compile `jobs` in up to `processes` processes. Then load the kernels here, and compile those that are missing.

    Returns four counts:

    - the kernels that other processes compiled
    - the processes that were started to compile
    - the kernels that this process compiled
    - the kernels that could not be compiled; a warning names the first, and `launch.recovery` handles them when they
      are launched

    Kernels that Triton's cache had already are in none of the counts.
    """
    from triton import knobs
    from triton.runtime import driver

    target = driver.active.get_current_target()
    shares = [jobs[i::processes] for i in range(min(processes, len(jobs)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        elsewhere = sum(pool.map(lambda share: compile_elsewhere(share, target), shares))
    failures = []
    with knobs.compilation.scope():
        missed = count_misses(knobs)
        for job in jobs:
            try:
                job.kernel.warmup(grid=(job.programs,), **job.arguments)
            except Exception as error:
                said = (str(error).strip().splitlines() or [""])[0]
                failures.append(f"{job.kernel.__name__}: {type(error).__name__}: {said}")
    if failures:
        message = (
            f"tritonconv.warmup: {len(failures)} of {len(jobs)} kernels can not be compiled. The training step tries "
            f"again, and falls back to the reference if it fails, too. The first error: {failures[0]}"
        )
        warnings.warn(message, stacklevel=3)
    return elsewhere, len(shares), len(missed), len(failures)


def count_misses(knobs: Any) -> list[None]:
    """Return a list that grows by one None for each kernel that Triton compiles in this process from now on.

    A kernel that Triton finds in its cache does not count. The listener is set in `knobs`, Triton's settings.
    """
    missed: list[None] = []

    def listener(*, cache_hit: bool, **_: Any) -> None:
        missed.extend([None] * (not cache_hit))

    knobs.compilation.listener = listener
    return missed


def compile_elsewhere(jobs: list[Launch], target: Any) -> int:
    """Compile `jobs` in a new process for the GPU `target`, and return how many kernels that process compiled.

    Kernels in Triton's cache do not count. If that process fails, warn and return 0. The caller then compiles what is
    missing.
    """
    portable = [
        (job.kernel.__module__, job.kernel.__name__, tree_map_only(Tensor, lambda t: t.dtype, job.arguments))
        for job in jobs
    ]
    # The child imports the same modules as this process. -P keeps the current directory from hiding others.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str))
    command = [
        sys.executable or "python3",
        "-P",
        "-c",
        "from tritonconv.tools.parallel_compile import worker; worker()",
    ]
    try:
        done = subprocess.run(
            command,
            input=pickle.dumps((target, portable)),
            capture_output=True,
            env=os.environ | {"PYTHONPATH": path},
            check=True,
        )
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error).encode()).decode().strip().splitlines()[-1]
        message = "tritonconv.warmup: a compiling process failed, so this process compiles its kernels instead"
        warnings.warn(f"{message}. The error: {reason}", stacklevel=2)
        return 0


def worker() -> None:
    """Compile the jobs from stdin, in the process that `compile_elsewhere` starts, and print how many were compiled.

    Jobs in Triton's cache do not count. The process compiles offline for the GPU that stdin names, without using a GPU.
    """
    from triton import knobs
    from triton.runtime import driver

    target, jobs = pickle.load(sys.stdin.buffer)
    missed = count_misses(knobs)
    driver.set_active(Elsewhere(target))
    for module, name, arguments in jobs:
        kernel = getattr(import_module(module), name)
        tensors = tree_map_only(torch.dtype, lambda dtype: torch.empty(0, dtype=dtype, device="meta"), arguments)
        kernel.warmup(grid=(1,), **tensors)
    print(len(missed))


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
