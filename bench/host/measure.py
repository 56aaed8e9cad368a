"""Measure the host's time of calls in units of torch's, and count the Python functions that they enter."""

import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import FrameType
from typing import Any

import torch
import triton
from torch import Tensor, nn

import tritonconv
from bench.host.idle_gpu import IdleGpu
from bench.results import Row
from tritonconv.launch import bounded_cache

Work = Callable[[], object]

# AT_ONCE calls are timed together, after BEFORE calls that are not timed.
AT_ONCE, BEFORE = 50, 20
# How many times the functions of a call are counted. The lowest count is taken, because a call with a new address also
# fills a TMA descriptor.
COUNTED = 20
# Images are small, because what torch itself computes of them, on the CPU, would count as the host's time.
CHANNELS, SIZE = 64, 4
# Where operands are copied, channels are few, too.
FEW = 8
# The layers, by the suffix of their rows' names.
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "": partial(tritonconv.Conv2d, CHANNELS, CHANNELS, 3, padding=1),
    ", transposed": partial(tritonconv.ConvTranspose2d, CHANNELS, CHANNELS, 3, padding=1),
    ", local": partial(tritonconv.LocallyConnected2d, CHANNELS, CHANNELS, 3, SIZE, padding=1),
    ", float32": partial(tritonconv.Conv2d, FEW, FEW, 3, padding=1),
    ", contiguous": partial(tritonconv.Conv2d, FEW, FEW, 3, padding=1),
    ", launcher": partial(tritonconv.Conv2d, CHANNELS, CHANNELS, 3, padding=1),
    ", programs' descriptors": partial(tritonconv.Conv2d, CHANNELS, CHANNELS, 3, padding=1),
    ", host's descriptors": partial(tritonconv.Conv2d, CHANNELS, CHANNELS, 3, padding=1),
}
# The height and width of images for which all three kernels use TMA.
TILED = 8


@dataclass
class Problem:
    """A layer, its input, the gradient of its output, and all tensors that get a gradient."""

    layer: nn.Module
    x: Tensor
    gradient: Tensor
    leaves: list[Tensor]

    @classmethod
    def of(cls, layer: nn.Module, x: Tensor, dtype: torch.dtype) -> "Problem":
        """Return the problem of a layer. `dtype` is that of its output."""
        x.requires_grad_()
        return cls(layer, x, torch.ones_like(layer(x), dtype=dtype), [x, *layer.parameters()])


def forward(problem: Problem) -> None:
    problem.layer(problem.x)


def step(problem: Problem) -> None:
    """Run forward and backward, and drop the gradients."""
    problem.layer(problem.x).backward(problem.gradient)
    for leaf in problem.leaves:
        leaf.grad = None


def step_in_autocast(problem: Problem) -> None:
    """Run forward in autocast and backward outside of it, as torch's documentation advises."""
    with torch.autocast("cpu", torch.bfloat16):
        y = problem.layer(problem.x)
    y.backward(problem.gradient)
    for leaf in problem.leaves:
        leaf.grad = None


# What is measured, by its name in the rows: a function, and the context that is entered once for all its calls.
CALLS: dict[str, tuple[Callable[[Problem], None], Callable[[], AbstractContextManager[Any]]]] = {
    "forward no grad": (forward, torch.no_grad),
    "forward grad": (forward, nullcontext),
    "step": (step, nullcontext),
    "step autocast": (step_in_autocast, nullcontext),
}


def unit(call: str, kind: str) -> Problem:
    """Return torch's own layer on one pixel: the transposed one beside ours, and else a convolution."""
    layer = nn.ConvTranspose2d(1, 1, 1) if "transposed" in kind else nn.Conv2d(1, 1, 1)
    return Problem.of(layer, torch.ones(1, 1, 1, 1), torch.bfloat16 if "autocast" in call else torch.float32)


def ours(call: str, kind: str) -> Problem:
    """Return a layer of tritonconv, for a call of CALLS. `kind` is a key of LAYERS."""
    dtype = torch.float32 if "autocast" in call or "float32" in kind else torch.bfloat16
    layer: Any = LAYERS[kind](dtype=dtype)
    size = TILED if "descriptors" in kind else SIZE
    x = torch.ones(1, layer.in_channels, size, size, dtype=dtype)
    if "contiguous" not in kind:
        x = x.contiguous(memory_format=torch.channels_last)
        for parameter in layer.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return Problem.of(layer, x, torch.bfloat16 if "autocast" in call else dtype)


def measured(rounds: int, gpu: IdleGpu) -> list[Row]:
    """Return a row for each call of each layer: its time in units of torch's, and the functions that it enters."""
    rows: list[Row] = []
    for kind in LAYERS:
        gpu.as_triton = "launcher" in kind or "descriptors" in kind
        gpu.host_descriptors = "host's" in kind
        bounded_cache.clear()
        for call, (run, context) in CALLS.items():
            if kind and "autocast" in call:
                continue
            work, other = partial(run, ours(call, kind)), partial(run, unit(call, kind))
            with context():
                times = round(ratio(work, other, rounds), 2)
                fewest = min(len(functions(work)) for _ in range(COUNTED))
            rows.append({"call": f"{call}{kind}", "ratio": times, "functions": fewest, **versions()})
    return rows


def versions() -> dict[str, str]:
    """Return the versions of which rows are compared."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "triton": triton.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def ratio(work: Work, other: Work, rounds: int) -> float:
    """Return the median time of `work` in units of that of `other`. Both run in turns, in each of the rounds.

    It is the processor's time, which does not count while other processes run.
    """
    times: tuple[list[float], list[float]] = ([], [])
    with steady():
        for each in (work, other):
            for _ in range(BEFORE):
                each()
        for _ in range(rounds):
            for each, found in zip((work, other), times, strict=True):
                start = time.thread_time()
                for _ in range(AT_ONCE):
                    each()
                found.append(time.thread_time() - start)
    mine, others = map(median, times)
    return mine / others


@contextmanager
def steady() -> Iterator[None]:
    """Let calls take the same time each time: in one thread, without garbage collection and without oneDNN.

    oneDNN takes longer to prepare a convolution of bfloat16 than torch takes for all else.
    """
    threads, mkldnn = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    torch._C._set_mkldnn_enabled(False)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        torch._C._set_mkldnn_enabled(mkldnn)
        torch.set_num_threads(threads)


def functions(work: Work) -> list[str]:
    """Return the names of the Python functions that a call of `work` enters.

    Backward enters them in the same thread, because the tensors of the fake GPU lie on the CPU.
    """
    found: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    work()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found
