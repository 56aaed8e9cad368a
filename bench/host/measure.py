"""Measure the host's time of calls in units of torch's, and count the Python functions that they enter."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import FrameType
from typing import Any

import torch
import triton
from torch import Tensor, nn

import tritonconv

Row = dict[str, Any]
Work = Callable[[], object]

BATCH, CHANNELS, SIZE = 1, 64, 4
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "": partial(tritonconv.Conv2d, CHANNELS, CHANNELS, 3, padding=1),
    "transposed": partial(tritonconv.ConvTranspose2d, CHANNELS, CHANNELS, 3, padding=1),
    "local": partial(tritonconv.LocallyConnected2d, CHANNELS, CHANNELS, 3, SIZE, padding=1),
}


@dataclass
class Problem:
    """A layer, its input, and the gradient of its output."""

    layer: nn.Module
    x: Tensor
    gradient: Tensor
    leaves: list[Tensor]

    @classmethod
    def of(cls, layer: nn.Module, x: Tensor) -> "Problem":
        x.requires_grad_()
        return cls(layer, x, torch.ones_like(layer(x)), [x, *layer.parameters()])

    def forward(self) -> Tensor:
        y: Tensor = self.layer(self.x)
        return y

    def forward_without_gradient(self) -> Tensor:
        with torch.no_grad():
            y: Tensor = self.layer(self.x)
            return y

    def step(self) -> None:
        """Run forward and backward, and forget the gradients."""
        self.layer(self.x).backward(self.gradient)
        for leaf in self.leaves:
            leaf.grad = None

    def step_in_autocast(self) -> None:
        """Run forward under autocast to bfloat16, and backward outside of it, as torch advises."""
        with torch.autocast("cpu", torch.bfloat16):
            y = self.layer(self.x)
        y.backward(self.gradient)
        for leaf in self.leaves:
            leaf.grad = None


# What is measured, by the names in the rows.
CALLS: dict[str, Callable[[Problem], object]] = {
    "forward no grad": Problem.forward_without_gradient,
    "forward grad": Problem.forward,
    "step": Problem.step,
    "step autocast": Problem.step_in_autocast,
}


def yardstick() -> Problem:
    """Return torch's own layer on one pixel. Nearly all of its time is the host's, on a CPU, too."""
    return Problem.of(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 1, 1))


def ours(kind: str, dtype: torch.dtype) -> Problem:
    """Return a layer of tritonconv. `kind` is a key of LAYERS."""
    layer, x = LAYERS[kind](dtype=dtype), torch.ones(BATCH, CHANNELS, SIZE, SIZE, dtype=dtype)
    if kind != "local":
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Problem.of(layer, x.to(memory_format=torch.channels_last))


def measured(rounds: int, calls: int) -> list[Row]:
    """Return a row for each call: its time in units of torch's (`ratio`), and the functions that it enters."""
    rows = []
    for kind in LAYERS:
        for call, run in CALLS.items():
            if kind and run is Problem.step_in_autocast:
                continue
            in_autocast = run is Problem.step_in_autocast
            mine, unit = ours(kind, torch.float32 if in_autocast else torch.bfloat16), yardstick()
            if in_autocast:
                for problem in (mine, unit):
                    problem.gradient = problem.gradient.to(torch.bfloat16)
            rows.append(
                {
                    "call": f"{call}, {kind}" if kind else call,
                    "ratio": round(ratio(partial(run, mine), partial(run, unit), rounds, calls), 2),
                    "functions": entered(partial(run, mine)),
                    "torch": torch.__version__.partition("+")[0],
                    "triton": triton.__version__,
                }
            )
    return rows


def ratio(work: Work, unit: Work, rounds: int, calls: int) -> float:
    """Return the median time of `work` in units of the median time of `unit`.

    Both run in turns, `calls` times each in each of the `rounds`, so that a machine that slows down slows both.
    """
    times: dict[Work, list[float]] = {work: [], unit: []}
    with without_collections(), torch.backends.mkldnn.flags(enabled=False):
        for each in times:
            repeat(each, calls)
        for _ in range(rounds):
            for each, found in times.items():
                found.append(repeat(each, calls))
    return median(times[work]) / median(times[unit])


def repeat(work: Work, calls: int) -> float:
    """Return the seconds that `calls` calls of `work` take."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


@contextmanager
def without_collections() -> Iterator[None]:
    """Switch garbage collection off, and use one thread, so that a call takes the same time again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        torch.set_num_threads(threads)


def entered(work: Work) -> int:
    """Return how many Python functions a call of `work` enters, torch's included, and that of `work` itself.

    On the CPU, where the fake GPU's tensors lie, backward runs in the thread that calls it.
    """
    return len(functions(work))


def functions(work: Work) -> list[str]:
    """Return the names of the Python functions that a call of `work` enters."""
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
