"""The fast path in forked processes, and the order in which locks are taken by a fork and by calls."""

from pathlib import Path

import pytest

from tests.support.processes import seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest


def test_a_forked_process_takes_the_fast_path(tmp_path: Path) -> None:
    """It is forked while threads of its parent call layers, and finds the plans that its parent has kept."""
    code = """
import os, signal, threading
import tritonconv
from tests.fast_path import test_threads
from tritonconv.fast_path import forward, function
layers = [test_threads.layer(number, "cpu") for number in range(2)]
expected = [[test_threads.step(each, 0, "cpu") for _ in range(3)] for each in layers]
def long(*_): raise AssertionError("the long way")
def in_child():
    signal.alarm(60)
    forward.checked_and_computed = function.pull_back = long
    found = [test_threads.step(each, 0, "cpu") for each in layers]
    return all(test_threads.same_bits(a, b[0]) for a, b in zip(found, expected))
def forked():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if in_child() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def while_threads_run():
    ended, begun = threading.Event(), threading.Barrier(3)
    def work(number):
        begun.wait()
        while not ended.is_set():
            test_threads.step(layers[number], 0, "cpu")
    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for each in threads: each.start()
    begun.wait()
    found = forked()
    ended.set()
    for each in threads: each.join()
    return found
observe(forked, while_threads_run)
"""
    found = seen(code, tmp_path, TRITON_INTERPRET="1")
    assert found["results"] == [0, 0]
    assert not [each for each in found["warnings"] if each.startswith("FallbackWarning")]


def test_locks_have_an_order(tmp_path: Path) -> None:
    """Wherever a thread takes a lock while it holds another, a fork takes the two in the same order.

    Otherwise a fork and a thread could wait for each other. Here calls are kept, find kernels too large, and fork.
    """
    code = """
import os, sys, threading
taken, held, real = set(), threading.local(), threading.RLock
class Noting:
    def __init__(self, name):
        self.name, self.lock = name, real()
    def acquire(self, *arguments, **more):
        stack = vars(held).setdefault("stack", [])
        taken.update((kind, outer, self.name) for outer in stack if outer != self.name)
        stack.append(self.name)
        return self.lock.acquire(*arguments, **more)
    def release(self):
        held.stack.remove(self.name)
        self.lock.release()
    def __enter__(self): return self.acquire()
    def __exit__(self, *_): self.release()
def noting():
    module = sys._getframe(1).f_globals["__name__"]
    return Noting(module) if module.startswith("tritonconv.") else real()
threading.RLock = noting
import tritonconv
from tritonconv.launch import bounded_cache, remedies, start
threading.RLock = real
kind = "call"
gpu = install(Gpu(shared=16_000))
def calls():
    return [forward(), forward()]
def fork():
    global kind
    kind = "fork"
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def found(): return sorted(taken)
observe(calls, fork, found)
"""
    *results, taken = seen(code, tmp_path)["results"]
    assert results == [[True] * 2, 0]
    by_calls = {(outer, inner) for kind, outer, inner in taken if kind == "call"}
    by_fork = {(outer, inner) for kind, outer, inner in taken if kind == "fork"}
    cache, remedies, starts = (f"tritonconv.launch.{name}" for name in ("bounded_cache", "remedies", "start"))
    assert {frozenset(pair) for pair in by_fork} == {
        frozenset(pair) for pair in ((cache, remedies), (cache, starts), (remedies, starts))
    }
    assert (remedies, cache) in by_calls
    assert by_calls <= by_fork
