"""How much memory a call and its backward pass keep, with their plans. It is measured on a fake GPU, in a process."""

import gc
import json
import tracemalloc
from pathlib import Path

import pytest

from bench.host.idle_gpu import IdleGpu, install
from tests.support.processes import python
from tests.support.recorded_calls import Problem, case
from tritonconv.fast_path import backward, forward
from tritonconv.launch import bounded_cache, plan_cache

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest


def kept_bytes(calls: int) -> float:
    """Return how many bytes of memory each of several calls keeps, with its backward pass and the plans of both.

    The calls differ in the width of their images. Kernels are compiled before, and shared by all calls. Their operands
    and results are freed before the memory is measured.
    """
    install(IdleGpu())
    problems = [Problem(case(batch=1, size=(4, 100 + i), padding=1)) for i in range(calls)]

    def keep_all() -> None:
        for problem in problems:
            for _ in range(2):
                problem.step(0)

    keep_all()
    bounded_cache.clear()
    gc.collect()
    tracemalloc.start()
    keep_all()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    kept = [len(cache.entries) for cache in (forward.kept_forwards, backward.kept_backwards, plan_cache.plans)]
    assert kept == [calls, calls, 3 * calls], kept
    return size / calls


def test_a_kept_call_takes_little_memory(tmp_path: Path) -> None:
    """A call, its backward pass and their three plans take less than 30,000 bytes, on a fake GPU.

    That is 120 MB for 4,096 calls. It was 18,500 bytes when this was written.
    """
    code = "import json\nfrom tests.fast_path.test_memory import kept_bytes\nprint(json.dumps(kept_bytes(50)))"
    done = python("-c", code, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert 5_000 < json.loads(done.stdout) < 30_000
