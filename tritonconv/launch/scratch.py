"""Scratch: memory that kernels need while they run, and that Triton asks its allocator for at each launch.

The programs of a kernel that uses TMA build their own descriptors there. The kernels of a stream run one after the
other, so they share one buffer. It is allocated once, and again when a launch needs more. All functions here are called
while `start` holds its lock.
"""

from collections.abc import Callable
from threading import Thread

import torch
from torch import Tensor

from tritonconv.launch.kept_plan import allocators
from tritonconv.launch.layout import aligned_bytes

# A buffer has at least this many bytes: enough for three descriptors of each of 170 programs. Its size doubles until it
# suffices, so that it is seldom replaced.
LEAST = 2**16
# At most this many buffers are kept. torch has a few dozen streams for each GPU, but a user may create more.
MOST = 128

# How many seconds the allocation of a buffer may take. It takes less than a millisecond, if memory is not short.
PATIENCE = 10.0

# The buffers, by device and stream. The oldest comes first.
buffers: dict[tuple[torch.device, int | None], Tensor] = {}

# Functions that say whether the current stream is being captured into a CUDA graph, by the kind of device. A CPU has no
# graphs: `bool()` is False. CUDA allows the question during a capture, and answers in a tenth of a microsecond.
is_capturing: dict[str, Callable[[], bool]] = {"cpu": bool, "cuda": torch._C._cuda_isCurrentStreamCapturing}


def scratch(device: torch.device, kind: str, size: int, alignment: int, stream: int | None) -> Tensor:
    """Return at least `size` bytes on `device`, at a multiple of `alignment`, for a kernel on this stream.

    The device and the stream are torch's current ones. `kind` is `device.type`: the caller reads it once, because that
    takes longer than all the rest here.

    If the stream is being captured into a CUDA graph, the memory is new. torch takes it from the pool of the graph,
    which lives as long as the graph. A buffer would not do: two graphs that were captured on one stream may run at the
    same time on others.
    """
    if not is_capturing[kind]():
        buffer = buffers.get((device, stream))
        if buffer is not None and buffer.numel() >= size and buffer.data_ptr() % alignment == 0:
            return buffer
        del buffer  # so that `replaced` can free it
        buffer = replaced(device, size, alignment, stream)
        if buffer is not None:
            return buffer
    memory = allocators[kind]((size,), (1,), torch.int8)
    return memory if memory.data_ptr() % alignment == 0 else aligned_bytes(device, size, alignment)


def replaced(device: torch.device, size: int, alignment: int, stream: int | None) -> Tensor | None:
    """Return a new buffer for the stream, which is kept in the place of one that does not suffice.

    The old one is freed, although kernels may still use it: torch gives its memory only to later work on the same
    stream. If too many buffers are kept, the oldest is dropped. Return None, and keep none, if `allocated_apart`
    returns None.
    """
    old = buffers.pop((device, stream), None)
    enough = max(LEAST, size, 0 if old is None else old.numel())
    del old  # frees it before the new one is allocated, because memory may be short
    buffer = allocated_apart(device, 1 << (enough - 1).bit_length(), alignment)
    if buffer is not None:
        buffers[device, stream] = buffer
        if len(buffers) > MOST:
            del buffers[next(iter(buffers))]
    return buffer


def allocated_apart(device: torch.device, size: int, alignment: int) -> Tensor | None:
    """Return memory for the current stream that can be kept, whatever is active in this thread.

    A new thread allocates it. No mode of torch is active there, and no memory pool of `torch.cuda.use_mem_pool`. Nor is
    the pool of a CUDA graph, from which a first call of `torch.compile` allocates before a second call is captured.
    Memory from a pool must not be kept, because torch uses it again when it resets the pool.
    Return None if no thread can be started, as in Python's last moments, or if it takes longer than PATIENCE.
    """
    current = torch.cuda.current_stream(device) if device.type == "cuda" else None
    done: list[Tensor | Exception] = []

    def allocate() -> None:
        try:
            if current is not None:
                # Nothing is set back, because the thread ends. That would make the first GPU current, and so use it.
                torch.cuda.set_stream(current)
            done.append(aligned_bytes(device, size, alignment))
        except Exception as error:
            done.append(error)

    thread = Thread(target=allocate, name="tritonconv scratch", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    # If garbage is collected in the new thread, a finalizer may wait for the lock that this thread holds.
    thread.join(PATIENCE)
    if not done:
        return None
    memory = done.pop()
    if isinstance(memory, Exception):
        try:
            raise memory
        finally:
            del memory  # a cycle of references, which would keep the tensors of all callers alive
    return memory
