"""Estimates of how many seconds the work takes on a GPU. The times of calls are the committed ones where there are any.

All other numbers are guesses, which no GPU has confirmed. They are rather too large: work that ends early leaves its
time to what comes after it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import results
from bench.layers import Layer
from bench.run.contenders import Pass, operators_of
from bench.run.timing import BUDGET, FEWEST, MOST

# A process: Python, torch and Triton from the disk, and the GPU's context. The first finds nothing in the disk's cache.
START, FIRST = 6.0, 10.0
# A kernel that a process compiles, processes that compile at the same time, and their start.
KERNEL, PROCESSES, WORKERS = 2.0, 16, 5.0
# The ceilings of one dtype, and of memory.
CEILING, CEILINGS = 2.0, 3.0
# To draw the operands of a problem and compute samples in float64; to check, capture and weigh one call.
DRAW, CALL = 0.12, 0.06
# cuDNN's search for an algorithm of one operator, and torch.compile of one function.
SEARCH, COMPILED_BY_TORCH = 0.2, 12.0
# Reading a buffer to cool the L2 cache, with the start of both replays.
COOLING = 0.25e-3
# Exactness of one unit, both ways; times of an operator both ways; one test, and the start of the tests.
EXACTNESS, BOTH_WAYS, TEST, TESTS = 0.35, 0.6, 0.15, 15.0
# One random problem, whose kernels are compiled one after another; one problem to tune, with about 14 tiles.
RANDOM, TUNING = 3.0, 4.0
# What a pass without a committed time is guessed to reach of its roofline; and eager calls beside the device time.
SHARE = {"triton": 0.5, "triton-nchw": 0.3, "torch": 0.4, "torch-nchw": 0.3}
SHARE_OF_OTHERS, EAGER = 0.05, 80.0
# The ceilings that these guesses take, in TFLOP/s and GB/s. They are those of the committed record of an H200, rounded.
CEILING_OF = {"bfloat16": 700.0, "float16": 700.0, "tf32": 360.0, "float32": 50.0}
MEMORY = 2700.0


@dataclass(frozen=True)
class Microseconds:
    """The device time and the eager time of one call."""

    device: float
    eager: float


@cache
def committed() -> dict[tuple[Any, ...], Microseconds]:
    """Return the committed medians by layer, pass, contender and dtype, of all GPUs. The last record counts."""
    found = {}
    for run in results.evidence():
        for row in run["rows"]:
            if row["status"] == "ok" and row.get("device_us"):
                found[results.key(row)] = Microseconds(row["device_us"]["median"], row["wall_us"]["median"])
    return found


def microseconds(layer: Layer, of: Pass, contender: str, dtype: str) -> Microseconds:
    """Return the committed times of a call, or else a guess by the roofline."""
    known = committed().get((layer.name, of, contender, dtype))
    if known is not None:
        return known
    geometry, itemsize = layer.geometry, 2 if dtype in ("bfloat16", "float16") else 4
    once = max(geometry.flops / CEILING_OF[dtype] / 1e6, geometry.minimal_bytes(itemsize) / MEMORY / 1e3)
    device = len(operators_of(of, layer)) * once / SHARE.get(contender, SHARE_OF_OTHERS) + 3
    return Microseconds(device, device + EAGER)


def seconds_of_call(layer: Layer, of: Pass, contender: str, dtype: str, budget: float = BUDGET) -> float:
    """Return the seconds that it takes to check and time one contender."""
    times = microseconds(layer, of, contender, dtype)
    device, eager = times.device / 1e6, times.eager / 1e6
    turns = [max(FEWEST, min(MOST, int(budget / each))) for each in (device, eager)]
    prepared = CALL + 10 * eager
    if contender.startswith("torch"):
        prepared += SEARCH * len(operators_of(of, layer))
    if "compile" in contender:
        prepared += COMPILED_BY_TORCH
    return prepared + turns[0] * (COOLING + 2 * device) + turns[1] * eager


def to_compile(kernels: int) -> float:
    """Return the seconds that it takes to compile so many kernels in parallel processes."""
    return WORKERS + -(-kernels // PROCESSES) * KERNEL if kernels else 0.0
