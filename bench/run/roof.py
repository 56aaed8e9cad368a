"""The roofline: ceilings measured in the same run, and the least time that a pass can take under them."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import torch

from bench.run.contenders import DTYPES, Pass, Problem, at_its_best, operators_of
from bench.run.memory import Computation
from bench.run.timing import side_by_side
from tritonconv.geometry import ConvGeometry, Operator

Ceilings = dict[str, float]

# The rows and columns of the large matrices, and the bytes of the large copy. A copy must not fit into a cache: the L3
# cache of some CPUs has several hundred megabytes.
LARGE = {"cuda": (8192, 1 << 31), "cpu": (1024, 1 << 30)}
# The small copy is repeated this many times in one call. Only the first reads from memory, the rest from the L2 cache.
AGAIN = 64


def ceilings(dtypes: Iterable[str], device: torch.device) -> Ceilings:
    """Measure the rates that the machine reaches.

    Return the TFLOP/s of a large matrix product of random numbers for each dtype. "copy" is the GB/s of a large copy.
    On a GPU, "l2" is that of a small copy repeated within the L2 cache. Both count bytes read and bytes written. A CPU
    has no "l2", because a copy that fits into its L2 cache takes less time than torch needs to call it.
    """
    extent, size = LARGE[device.type]
    found = {dtype: 2 * extent**3 / _product(dtype, extent, device) / 1e12 for dtype in dtypes}
    found["copy"] = 2 * size / _copy(size, 1, device) / 1e9
    if device.type == "cuda":
        small = in_l2(device)
        found["l2"] = AGAIN * 2 * small / _copy(small, AGAIN, device) / 1e9
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def in_l2(device: torch.device) -> int:
    """Return the bytes of the small copy: source and target together fill half the L2 cache of the GPU."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) // 4


def _copy(size: int, times: int, device: torch.device) -> float:
    """Return the seconds that `times` copies of `size` bytes take in one call.

    The kernel inverts the bits. In a CUDA graph, a plain copy would run on a copy engine, which is slower.
    """
    source, target = (torch.ones(size // 8, dtype=torch.int64, device=device) for _ in range(2))
    return _seconds(lambda: tuple(torch.bitwise_not(source, out=target) for _ in range(times)), device)


def _product(dtype: str, extent: int, device: torch.device) -> float:
    """Return the seconds that a product of two random matrices takes, of `extent` rows and columns each."""
    left, right = (torch.randn(extent, extent, dtype=DTYPES[dtype], device=device) for _ in range(2))
    with at_its_best(dtype):
        return _seconds(lambda: (left @ right,), device)


def _seconds(computation: Computation, device: torch.device) -> float:
    """Return the median of the device time in seconds, or on a CPU of the wall time."""
    times = side_by_side({"it": computation}, device)["it"]
    return statistics.median(times.device or times.wall) / 1e6


class Roof(NamedTuple):
    """The least time that a pass can take at the ceilings, and what bounds it.

    An operator takes at least as long as its multiplications and additions ("arithmetic"), and as long as moving each
    operand and result once ("memory"). If the weight varies by location, it also takes at least as long as reading the
    patches through the L2 cache ("L2"). The time of a pass is the sum over its operators, and so are `flops` and
    `bytes`. `bound` is what bounds the operator that takes longest. If the weight varies by location and the rate of
    the L2 cache is unknown, `microseconds` and `bound` are None.
    """

    microseconds: float | None
    flops: int
    bytes: int
    bound: str | None

    @classmethod
    def of(cls, of: Pass, problem: Problem, ceilings: Ceilings) -> "Roof":
        """Return the roof of a pass of `problem` at these ceilings."""
        geometry, itemsize = problem.geometry, problem.x.element_size()
        flops, moved = geometry.flops, geometry.minimal_bytes(itemsize)
        operators, floors = operators_of(of, problem.layer), []
        if geometry.per_location and "l2" not in ceilings:
            return cls(None, len(operators) * flops, len(operators) * moved, None)
        for operator in operators:
            floor = {"memory": moved / ceilings["copy"] / 1e3, "arithmetic": flops / ceilings[problem.dtype] / 1e6}
            if geometry.per_location:
                floor["L2"] = patch_bytes(operator, geometry, itemsize) / ceilings["l2"] / 1e3
            floors.append(max((time, bound) for bound, time in floor.items()))
        microseconds, bounds = sum(time for time, _ in floors), max(floors)[1]
        return cls(microseconds, len(floors) * flops, len(floors) * moved, bounds)


def patch_bytes(operator: Operator, geometry: ConvGeometry, itemsize: int) -> int:
    """Return the bytes of all patches: each position reads one pixel of the image for each tap.

    In dgrad, each position's features are read once for each tap. Taps in the padding count too.
    """
    channels = geometry.F if operator == "dgrad" else geometry.C
    return itemsize * geometry.B * geometry.P * geometry.Q * geometry.R * geometry.S * channels
