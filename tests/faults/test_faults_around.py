"""Faults around the kernels: disk, compiler, memory, threads and forks. Each test plants its fault in a new process."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.processes import one_warning, seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

CACHE = """
from triton import knobs
gpu = install(Gpu())
def folder(): return knobs.cache.dir
observe(step, step, folder, gpu=gpu)
"""


def test_an_unwritable_cache(tmp_path: Path) -> None:
    """The cache folder is below a file, where not even root can write."""
    (tmp_path / "file").touch()
    found = seen(CACHE, tmp_path / "file" / "cache")
    one_warning(found, f"Triton's cache in {tmp_path / 'file' / 'cache'} failed", "NotADirectoryError")
    assert found["results"][:2] == [True, True]
    assert len(found["started"]) == 8
    assert not Path(found["results"][2]).exists()


@pytest.mark.long
def test_a_damaged_cache(tmp_path: Path) -> None:
    """One process fills the cache. Then metadata is cut off in the middle, or replaced, and binaries are emptied."""
    healthy = tmp_path / "healthy"
    found = seen(CACHE, healthy, anew=True)
    assert (found["warnings"], found["results"]) == ([], [True, True, str(healthy)])
    for pattern, keep, error in (
        ("*_kernel.json", 0.5, "JSONDecodeError"),
        ("*_kernel.json", "{}", "KeyError"),
        ("*.cubin", 0, "kernel image is invalid"),
    ):
        damaged = tmp_path / error.split()[0]
        shutil.copytree(healthy, damaged)
        for path in damaged.rglob("__grp__*"):
            path.write_text(path.read_text().replace(str(healthy), str(damaged)))
        paths = [path for path in damaged.rglob(pattern) if not path.name.startswith("__grp__")]
        assert len(paths) == 4
        for path in paths:
            if isinstance(keep, str):
                path.write_text(keep)
            else:
                os.truncate(path, int(keep * path.stat().st_size))
        found = seen(CACHE, damaged)
        one_warning(found, f"Triton's cache in {damaged} failed, and a temporary folder takes its place", error)
        assert found["results"][:2] == [True, True]
        assert len(found["started"]) == 8
        assert not Path(found["results"][2]).exists()


def test_no_c_compiler(tmp_path: Path) -> None:
    """There is one warning for all operators, because none can run.

    The hook compiles a C module, as Triton does to build its launcher.
    """
    code = """
from triton.runtime.build import compile_module_from_src
def hook(event):
    if event == "build":
        compile_module_from_src("int nothing;", "nothing")
wish = lambda: forward(implementation="triton")
observe(step, step, wish, gpu=install(Gpu(hook=hook)))
"""
    found = seen(code, tmp_path, PATH=str(tmp_path))
    reason = "Triton does not work here: RuntimeError: Failed to find C compiler."
    one_warning(found, f"fprop runs as the reference (plain PyTorch), because {reason}")
    assert found["results"][:2] == [True, True]
    assert found["results"][2].startswith(f"NotImplementedError: triton: {reason}")


MEMORY = """
from dataclasses import replace
from tritonconv.launch import layout, start, tile_choice
from tritonconv.launch.kept_plan import KeptPlan
allocate, pick = layout.allocate, tile_choice.pick
def limited(shape, like, channels_last, dtype=None):
    if dtype is torch.float32 and shape[0] > {parts}:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return allocate(shape, like, channels_last, dtype).fill_(float("nan"))
layout.allocate = limited
tile_choice.pick = lambda *what: replace(pick(*what), SPLIT_K={splits}, BLOCK_N=64, BLOCK_K=16, BLOCK_B=0)
splits = []
run = start.start_kernels
start.start_kernels = lambda plan: splits.append(plan.tile.SPLIT_K) or run(plan)
filled = KeptPlan.filled
KeptPlan.filled = lambda plan, *operands: splits.append(plan.tile.SPLIT_K) or filled(plan, *operands)
observe(step, step, lambda: splits)
"""


@pytest.mark.long
def test_too_little_memory_for_the_workspace(tmp_path: Path) -> None:
    """wgrad uses fewer partial sums. Without memory for even one, torch's error is raised and there is no fallback."""
    found = seen(MEMORY.format(parts=100, splits=7), tmp_path, TRITON_INTERPRET="1")
    assert (found["results"], found["warnings"]) == ([True, True, [7, 7, 7] * 2], [])
    for splits, parts, fewer in ((7, 6, 1), (8, 6, 2)):
        found = seen(MEMORY.format(parts=parts, splits=splits), tmp_path, TRITON_INTERPRET="1")
        one_warning(found, f"wgrad splits its reduction into {fewer} parts instead of {splits}, for lack of memory")
        assert found["results"] == [True, True, [splits, fewer, splits] * 2]
    found = seen(MEMORY.format(parts=0, splits=7), tmp_path, TRITON_INTERPRET="1")
    assert found["results"][:2] == ["OutOfMemoryError: CUDA out of memory"] * 2
    assert found["warnings"] == []


THREADS = """
import threading
def threads(n=8):
    together, right = threading.Barrier(n), []
    def work():
        together.wait()
        right.append({call}())
    workers = [threading.Thread(target=work) for _ in range(n)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    return sum(right)
"""


@pytest.mark.long
def test_eight_threads_at_once(tmp_path: Path) -> None:
    """All threads make the first call, which compiles, at once.

    This must work with a writable cache, with one that is not writable, and in the interpreter.
    """
    on_gpu = THREADS.format(call="forward") + "observe(threads, gpu=install(Gpu()))"
    found = seen(on_gpu, tmp_path / "cache")
    assert (found["results"], found["warnings"], len(found["started"])) == ([8], [], 8)
    (tmp_path / "file").touch()
    found = seen(on_gpu, tmp_path / "file" / "cache")
    one_warning(found, "Triton's cache in")
    assert (found["results"], len(found["started"])) == ([8], 8)
    found = seen(THREADS.format(call="step") + "observe(threads)", tmp_path, TRITON_INTERPRET="1")
    assert (found["results"], found["warnings"]) == ([8], [])


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_forked_workers(tmp_path: Path, interpret: str) -> None:
    """Workers of a DataLoader can be forked after the import, after a first call, and while a thread starts kernels.

    That thread of the parent holds one of the locks for half a second after the fork begins. A fork that did not wait
    for the thread would leave the workers with a lock that nobody releases.
    """
    code = """
import os, threading, time
import tritonconv
from torch.utils.data import DataLoader, Dataset
from tritonconv.launch import bounded_cache, remedies, start
locks = [start.starting, bounded_cache._changing, remedies._changing]
class Steps(Dataset):
    def __len__(self): return 2
    def __getitem__(self, index):
        for lock in locks:
            assert lock.acquire(timeout=60)
            lock.release()
        return step()
def workers():
    return [bool(each) for each in DataLoader(Steps(), num_workers=2, multiprocessing_context="fork")]
def holding(lock):
    locked, forking = threading.Event(), threading.Event()
    os.register_at_fork(before=forking.set)
    def hold():
        with lock:
            locked.set()
            forking.wait()
            time.sleep(0.5)
    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    return workers()
observe(workers, step, workers, *(lambda lock=lock: holding(lock) for lock in locks))
"""
    found = seen(code, tmp_path, TRITON_INTERPRET=interpret)
    assert (found["results"], found["warnings"]) == ([[True, True], True, *[[True, True]] * 4], [])
