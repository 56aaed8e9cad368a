"""Scratch: the launches of a stream share one buffer, and each launch gets new memory in a CUDA graph."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.processes import python, seen
from tritonconv.launch import kept_plan, scratch

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "buffers", {})


def asked(size: int = 64, alignment: int = 128, stream: int | None = 0, device: torch.device = CPU) -> Tensor:
    return scratch.scratch(device, device.type, size, alignment, stream)


def test_launches_of_a_stream_share_a_buffer() -> None:
    first = asked(1)
    assert (first.dtype, first.device, first.numel()) == (torch.int8, CPU, scratch.LEAST)
    assert all(asked(size) is first for size in (384, scratch.LEAST, 1))
    assert scratch.buffers == {(CPU, 0): first}


def test_two_streams_do_not_share_a_buffer() -> None:
    streams = (0, 7, None)
    memory = [asked(stream=stream) for stream in streams]
    assert len({each.data_ptr() for each in memory}) == len(streams)
    assert all(asked(stream=stream) is each for stream, each in zip(streams, memory, strict=True))


def test_two_gpus_do_not_share_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a stream 0."""
    monkeypatch.setitem(scratch.is_capturing, "cuda", bool)
    monkeypatch.setattr(scratch, "allocated_apart", lambda _, *values: scratch.aligned_bytes(CPU, *values))
    gpus = [torch.device("cuda", index) for index in range(2)]
    memory = [asked(device=gpu) for gpu in gpus]
    assert memory[0].data_ptr() != memory[1].data_ptr()
    assert all(asked(device=gpu) is each for gpu, each in zip(gpus, memory, strict=True))


def test_a_buffer_that_is_too_small_is_replaced() -> None:
    """The old one is freed once no launch holds it. The size doubles, so there are few replacements."""
    old = weakref.ref(asked())
    assert old() is not None
    larger = asked(scratch.LEAST + 1)
    assert old() is None
    assert asked() is larger
    assert larger.numel() == 2 * scratch.LEAST
    sizes = [asked(size).numel() for size in range(64, 10 * scratch.LEAST, 99)]
    assert sum(a != b for a, b in pairwise(sizes)) == 3
    assert len(scratch.buffers) == 1


def test_the_old_buffer_is_freed_before_the_new_one_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may be short."""
    old = weakref.ref(asked())
    apart = scratch.allocated_apart
    alive: list[bool] = []
    monkeypatch.setattr(scratch, "allocated_apart", lambda *values: alive.append(old() is not None) or apart(*values))
    asked(scratch.LEAST + 1)
    assert alive == [False]


@pytest.mark.parametrize("offset", [0, 16, 64])
def test_a_buffer_that_is_not_aligned_is_replaced(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds however the memory is aligned that torch allocates. Kernels of other alignments share the new one."""
    empty = torch.empty

    def allocate(size: int, **more: Any) -> Tensor:
        wide = empty(size + 16384, **more)
        begin = -wide.data_ptr() % 8192 + offset
        return wide[begin : begin + size]

    monkeypatch.setattr(torch, "empty", allocate)
    for alignment in (16, 128, 4096):
        memory = asked(384, alignment)
        assert memory.data_ptr() % alignment == 0
        assert memory.numel() >= 384
    assert all(asked(384, alignment) is memory for alignment in (16, 4096, 128))


def test_a_large_buffer_stays_large_if_it_is_not_aligned() -> None:
    """Otherwise two kernels, one with much memory and one with a wide alignment, would replace it in turns."""
    large = asked(4 * scratch.LEAST, 64)
    alignment = 2 * (large.data_ptr() & -large.data_ptr())  # the least that it does not have
    aligned = asked(1, alignment)
    assert aligned is not large
    assert aligned.data_ptr() % alignment == 0
    assert asked(4 * scratch.LEAST, 64) is asked(1, alignment) is aligned


@pytest.mark.parametrize("before", [True, False], ids=["a buffer", "no buffer"])
def test_each_launch_in_a_cuda_graph_gets_new_memory(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the size that was asked for. The buffer is neither used nor replaced, however large it would have to be.

    The memory is allocated in this thread, because a graph's pool may serve one thread only.
    """
    kept = asked() if before else None
    monkeypatch.setattr(scratch, "allocated_apart", None)
    monkeypatch.setitem(scratch.is_capturing, "cpu", lambda: True)
    sizes = (64, 384, 4 * scratch.LEAST)
    memory = [asked(size) for size in sizes]
    assert [each.numel() for each in memory] == [*sizes]
    assert len({each.data_ptr() for each in memory} | ({kept.data_ptr()} if kept is not None else set())) == 3 + before
    assert scratch.buffers == ({(CPU, 0): kept} if before else {})
    references = [weakref.ref(each) for each in memory]
    memory.clear()
    assert [each() for each in references] == [None] * 3


@pytest.mark.parametrize("offset", [0, 16, 64])
@pytest.mark.parametrize("alignment", [16, 128, 4096])
def test_memory_in_a_cuda_graph_is_aligned(offset: int, alignment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        wide = torch.empty(shape[0] + 8192, dtype=dtype)
        begin = -wide.data_ptr() % 4096 + offset
        return wide[begin : begin + shape[0]]

    monkeypatch.setitem(scratch.is_capturing, "cpu", lambda: True)
    monkeypatch.setitem(kept_plan.allocators, "cpu", allocate)
    memory = asked(384, alignment)
    assert (memory.numel(), memory.dtype, memory.device.type) == (384, torch.int8, "cpu")
    assert memory.data_ptr() % alignment == 0


class Raising(TorchDispatchMode):
    def __torch_dispatch__(self, *_: Any) -> Any:
        raise AssertionError("a mode saw the allocation")


class RaisingAbove(TorchFunctionMode):
    def __torch_function__(self, *_: Any) -> Any:
        raise AssertionError("a mode saw the allocation")


@contextmanager
def without_data() -> Iterator[None]:
    with FakeTensorMode():
        assert type(torch.empty(1)) is not Tensor
        yield


MODES: dict[str, Callable[[], Any]] = {
    "fake tensors": without_data,
    "inference mode": torch.inference_mode,
    "dispatch mode": Raising,
    "function mode": RaisingAbove,
    "default device": partial(torch.device, "meta"),
}


@pytest.mark.parametrize("mode", MODES, ids=[*MODES])
def test_a_buffer_is_a_plain_tensor_whatever_is_active(mode: str) -> None:
    with MODES[mode]():
        memory = asked()
    assert asked() is memory
    assert type(memory) is Tensor
    assert not memory.is_inference()
    assert memory.device == CPU
    assert memory.data_ptr() != 0


def test_a_buffer_is_not_allocated_from_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.cuda.use_mem_pool` lets the allocations of one thread, and no other, come from a pool."""
    this, allocate = threading.get_ident(), scratch.aligned_bytes
    from_pool: list[bool] = []

    def noted(*values: Any) -> Tensor:
        from_pool.append(threading.get_ident() == this)
        return allocate(*values)

    monkeypatch.setattr(scratch, "aligned_bytes", noted)
    asked()
    assert from_pool == [False]


def test_a_buffer_is_allocated_on_the_stream_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are current in a thread, and another thread allocates. It makes no other GPU current."""
    gpu, active = torch.device("cuda", 1), threading.local()
    found: list[Any] = []

    def use(stream: Any) -> None:
        assert not hasattr(active, "stream"), "a second stream is made current"
        active.stream = stream

    def allocate(device: torch.device, size: int, alignment: int) -> Tensor:
        found.append((active.stream, device, alignment))
        return torch.empty(size, dtype=torch.int8)

    monkeypatch.setitem(scratch.is_capturing, "cuda", bool)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("current stream", device))
    monkeypatch.setattr(torch.cuda, "set_stream", use)
    monkeypatch.setattr(scratch, "aligned_bytes", allocate)
    asked(device=gpu)
    assert found == [(("current stream", gpu), gpu, 128)]


def test_nothing_waits_long_for_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other thread waits for a lock of this one, memory is allocated here, and is not kept."""
    # This thread may take the lock again, because it aligns its own memory by the same function.
    lock = threading.RLock()
    allocate = scratch.aligned_bytes

    def blocked(*about: Any) -> Tensor:
        with lock:
            return allocate(*about)

    monkeypatch.setattr(scratch, "PATIENCE", 0.1)
    monkeypatch.setattr(scratch, "aligned_bytes", blocked)
    with lock:
        assert asked().numel() >= 1
    assert scratch.buffers == {}


def test_the_oldest_of_too_many_buffers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is replaced counts as new."""
    monkeypatch.setattr(scratch, "MOST", 3)
    for stream in range(3):
        asked(stream=stream)
    asked(scratch.LEAST + 1, stream=0)
    first = weakref.ref(scratch.buffers[CPU, 1])
    asked(stream=3)
    assert [*scratch.buffers] == [(CPU, 2), (CPU, 0), (CPU, 3)]
    assert first() is None


def test_an_error_of_the_allocation_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and the next launch tries again. The error holds no tensor of its callers for long."""

    class Held:
        pass

    def fails(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("planted")

    def launch() -> weakref.ref[Held]:
        held = Held()
        with pytest.raises(torch.OutOfMemoryError, match="planted"):
            asked(scratch.LEAST + 1)
        return weakref.ref(held)

    asked()
    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(scratch, "aligned_bytes", fails)
            held = launch()
        assert held() is None
    finally:
        gc.enable()
    assert scratch.buffers == {}
    assert asked() is asked()


def test_memory_is_not_kept_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python starts none at its end."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    memory = asked(384)
    assert memory.numel() == 384
    assert scratch.buffers == {}


FORKED = """
import os, torch
torch.set_num_threads(1)  # threads of torch do not survive a fork
from tritonconv.launch import scratch
def asked(size=64):
    return scratch.scratch(torch.device("cpu"), "cpu", size, 128, 0)
parent = asked().fill_(1)
pid = os.fork()
if pid == 0:
    shared = asked().fill_(2)
    os._exit(0 if shared.data_ptr() == parent.data_ptr() and asked(scratch.LEAST + 1) is not shared else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert asked() is parent
assert bool((parent == 1).all())
"""


def test_a_forked_process_has_buffers_of_its_own() -> None:
    """It is a copy of the buffer that the child writes to, and the child can allocate another."""
    done = python("-W", "ignore", "-c", FORKED)
    assert done.returncode == 0, done.stderr


STARTED = """
from tests.support.triton_launchers import *
from tritonconv.launch import scratch
gpu = recording_gpu()
used, allocated = [], []
def launch(*values):
    used.extend(each.data_ptr() for each in values if isinstance(each, Tensor) and each.dtype == torch.int8)
gpu.launch = launch
apart = scratch.allocated_apart
scratch.allocated_apart = lambda *values: allocated.append(values[1]) or apart(*values)
"""


def test_all_ways_of_starting_kernels_share_the_buffer(tmp_path: Path) -> None:
    """Kernels are started for the first time, by Triton's public interface, and by their launchers, on two streams.

    A step starts two kernels that use TMA. The buffer of a stream is allocated once.
    """
    code = """
def addresses():
    found = []
    for way in (public, direct):
        way()
        for stream in (5, 5, 5, 7, 7, 5):
            gpu.stream = stream
            used.clear()
            assert same(trained(tma), expected(tma))
            (address,) = set(used)
            found.append([stream, len(used), address])
    by_stream = {stream: scratch.buffers[torch.device("cpu"), stream].data_ptr() for stream in (5, 7)}
    assert by_stream[5] != by_stream[7]
    return [[stream, launches, by_stream[stream] == address] for stream, launches, address in found]
observe(addresses, lambda: allocated)
"""
    found, allocated = seen(STARTED + code, tmp_path)["results"]
    assert found == [[stream, 2, True] for stream in (5, 5, 5, 7, 7, 5)] * 2
    assert allocated == [scratch.LEAST] * 2
