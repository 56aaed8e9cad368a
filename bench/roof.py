"""How fast it could be: ceilings measured in the same run, and the time a pass takes if it reaches them."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import torch

from bench.contenders import DTYPES, Pass, Problem, at_its_best, parts
from bench.timing import Call, side_by_side

Ceilings = dict[str, float]

# Extent of the large matrix product and bytes of the large copy.
LARGE = {"cuda": (8192, 1 << 31), "cpu": (1024, 1 << 26)}


def ceilings(dtypes: Iterable[str], device: torch.device) -> Ceilings:
    """TFLOP/s of a large matrix product of random numbers, by dtype, and GB/s, read and written, of a large copy."""
    extent, size = LARGE[device.type]
    found = {dtype: 2 * extent**3 / _product(dtype, extent, device) / 1e12 for dtype in dtypes}
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    found["copy"] = 2 * size / _seconds(lambda: (target.copy_(source),), device) / 1e9
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _product(dtype: str, extent: int, device: torch.device) -> float:
    left, right = (torch.randn(extent, extent, dtype=DTYPES[dtype], device=device) for _ in range(2))
    with at_its_best(dtype):
        return _seconds(lambda: (left @ right,), device)


def _seconds(call: Call, device: torch.device) -> float:
    times = side_by_side({"it": call}, device)["it"]
    return statistics.median(times.device or times.wall) / 1e6


class Roof(NamedTuple):
    """The least a pass can take. Each of its operators is bound by whichever of its products and bytes takes longer."""

    microseconds: float
    flops: int
    bytes: int
    bound: str

    @classmethod
    def of(cls, of: Pass, problem: Problem, ceilings: Ceilings) -> "Roof":
        operators = len(parts(of, problem.layer))
        flops, moved = problem.geometry.flops, problem.geometry.minimal_bytes(problem.x.element_size())
        arithmetic, memory = flops / ceilings[problem.dtype] / 1e6, moved / ceilings["copy"] / 1e3
        bound = "arithmetic" if arithmetic > memory else "memory"
        return cls(operators * max(arithmetic, memory), operators * flops, operators * moved, bound)
