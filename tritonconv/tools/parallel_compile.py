"""Compile kernels in parallel processes, which leave what they compile in Triton's cache on disk."""

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
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_all(jobs: list[Launch], processes: int) -> tuple[int, int, int, int]:
    """Compile in up to `processes` processes, then load what they left, and compile what they did not.

    Returns how many were compiled there, in how many processes, how many here, and how many not at all: of these it
    warns, and what launches them must know what to do.
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
        message = f"tritonconv.warmup: {len(failures)} of {len(jobs)} kernels can not be compiled; {failures[0]}"
        warnings.warn(message, stacklevel=3)
    return elsewhere, len(shares), len(missed), len(failures)


def count_misses(knobs: Any) -> list[None]:
    """A list that grows with each kernel that Triton has to compile."""
    missed: list[None] = []

    def listener(*, cache_hit: bool, **_: Any) -> None:
        missed.extend([None] * (not cache_hit))

    knobs.compilation.listener = listener
    return missed


def compile_elsewhere(jobs: list[Launch], target: Any) -> int:
    """How many of `jobs` a process of its own compiled. What it fails to compile is left to this one."""
    portable = [
        (job.kernel.__module__, job.kernel.__name__, tree_map_only(Tensor, lambda t: t.dtype, job.arguments))
        for job in jobs
    ]
    # The modules that this process would import, and -P lest the current directory hides others.
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
        warnings.warn(f"tritonconv.warmup: a process failed, and this one compiles instead: {reason}", stacklevel=2)
        return 0


def worker() -> None:
    """The other side of `compile_elsewhere`: compiles what comes in, for a GPU that it need not see."""
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
    """In the place of Triton's driver: a GPU that is only compiled for."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
