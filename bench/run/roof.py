"""The roofline: ceilings measured in the same run, and the least time that a pass can take under them."""

import statistics
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from bench.run.contenders import DTYPES, Pass, Problem, at_its_best, operators_of
from bench.run.memory import Computation
from bench.run.timing import median_of, on_device, side_by_side
from tritonconv.geometry import ConvGeometry, Operator

Ceilings = dict[str, float]

# The rows, columns and summands of the products. The largest takes seconds in float32, whose FMAs are slow.
PRODUCTS = {
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 16384, 16384), (100352, 256, 2304)),
    "cpu": ((512, 512, 512), (1024, 1024, 1024)),
}
MOST_IN_FLOAT32 = 2 * 8192**3
# The bytes of the large copy. It must not fit into a cache: the L3 cache of some CPUs has several hundred megabytes.
LARGE = {"cuda": 1 << 31, "cpu": 1 << 30}
# The small copy is repeated this many times in one call. Only the first reads from memory, the rest from the L2 cache.
AGAIN = 64


class Measured(NamedTuple):
    """The ceilings of a machine.

    - `rates` has the TFLOP/s of each dtype: those of the fastest of several large matrix products of random numbers.
      "copy" is the GB/s of a kernel that copies, and "read" that of one that only reads. On a GPU, "l2" and "l2_read"
      are the same within the L2 cache. Copies count bytes read and bytes written.
    - `products` names the product that was fastest, by dtype: "8192 x 8192 x 8192" for rows, columns and summands.
    - `clocks` is the SM clock in MHz during that product, by dtype. None if the driver does not tell.
    """

    rates: Ceilings
    products: dict[str, str]
    clocks: dict[str, float | None]

    @property
    def in_record(self) -> dict[str, Any]:
        """The fields of a record that describe the ceilings (`bench.results`)."""
        return {"ceilings": self.rates, "ceilings_from": self.products, "ceiling_clocks": self.clocks}


def ceilings(dtypes: Iterable[str], device: torch.device) -> Measured:
    """Measure the rates that the machine reaches.

    A CPU has no rates of the L2 cache, because a copy that fits into it takes less time than torch needs to call it.
    """
    found = Measured({}, {}, {})
    for dtype in dtypes:
        rate, found.products[dtype], found.clocks[dtype] = max(products(dtype, device), key=lambda each: each[0])
        found.rates[dtype] = rate / 1e12
    size = LARGE[device.type]
    found.rates["copy"] = 2 * size / _copy(size, 1, device) / 1e9
    found.rates["read"] = size / _read(size, 1, device) / 1e9
    if device.type == "cuda":
        small = in_l2(device)
        found.rates["l2"] = AGAIN * 2 * small / _copy(small, AGAIN, device) / 1e9
        found.rates["l2_read"] = AGAIN * small / _read(small, AGAIN, device) / 1e9
    return found._replace(rates={name: float(f"{value:.4g}") for name, value in found.rates.items()})


def memory_rate(rates: Ceilings) -> float:
    """Return the GB/s that operands and results are moved with at best. Older records have only the rate of a copy."""
    return max(rates["copy"], rates.get("read", 0.0))


def l2_rate(rates: Ceilings) -> float | None:
    """Return the GB/s that patches are read with from the L2 cache at best, or None if that is not known."""
    return max(rates["l2"], rates.get("l2_read", 0.0)) if "l2" in rates else None


def in_l2(device: torch.device) -> int:
    """Return the bytes of the small copy: source and target together fill half the L2 cache of the GPU."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) // 4


def products(dtype: str, device: torch.device) -> Iterator[tuple[float, str, float | None]]:
    """Yield the operations per second of each product, its name, and the SM clock in MHz during it."""
    for rows, columns, summands in PRODUCTS[device.type]:
        operations = 2 * rows * columns * summands
        if dtype == "float32" and operations > MOST_IN_FLOAT32:
            continue
        seconds, clock = _product((rows, columns, summands), dtype, device)
        yield operations / seconds, f"{rows} x {columns} x {summands}", clock


def _product(sizes: tuple[int, int, int], dtype: str, device: torch.device) -> tuple[float, float | None]:
    """Return the seconds that a product of random matrices takes, and the SM clock (`_seconds`)."""
    rows, columns, summands = sizes
    left = torch.randn(rows, summands, dtype=DTYPES[dtype], device=device)
    right = torch.randn(summands, columns, dtype=DTYPES[dtype], device=device)
    with at_its_best(dtype):
        return _seconds(lambda: (left @ right,), device)


def _copy(size: int, times: int, device: torch.device) -> float:
    """Return the seconds that `times` copies of `size` bytes take in one call.

    The kernel inverts the bits. In a CUDA graph, a plain copy would run on a copy engine, which is slower.
    """
    source, target = (torch.ones(size // 8, dtype=torch.int64, device=device) for _ in range(2))
    return _seconds(lambda: tuple(torch.bitwise_not(source, out=target) for _ in range(times)), device)[0]


def _read(size: int, times: int, device: torch.device) -> float:
    """Return the seconds that it takes to read `size` bytes `times` times in one call, by adding them up."""
    source, total = torch.ones(size // 4, device=device), torch.empty((), device=device)
    return _seconds(lambda: tuple(torch.sum(source, 0, out=total) for _ in range(times)), device)[0]


def _seconds(computation: Computation, device: torch.device) -> tuple[float, float | None]:
    """Return the seconds that a call takes at best, and the median of the SM clock in MHz, if that is known.

    On a GPU it is the device time, with a cold or a warm L2 cache: a ceiling is the most that was reached. On a CPU it
    is the wall time. All three are medians.
    """
    if device.type == "cuda":
        times = on_device({"it": computation}, device)["it"]
        best = min(statistics.median(each) for each in (times.device, times.warm) if each)
        return best / 1e6, median_of([each.clock_mhz for each in times.sensed])
    return statistics.median(side_by_side({"it": computation}, device)["it"].wall) / 1e6, None


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
        through_l2 = l2_rate(ceilings)
        if geometry.per_location and through_l2 is None:
            return cls(None, len(operators) * flops, len(operators) * moved, None)
        for operator in operators:
            floor = {
                "memory": moved / memory_rate(ceilings) / 1e3,
                "arithmetic": flops / ceilings[problem.dtype] / 1e6,
            }
            if geometry.per_location and through_l2 is not None:
                floor["L2"] = patch_bytes(operator, geometry, itemsize) / through_l2 / 1e3
            floors.append(max((time, bound) for bound, time in floor.items()))
        microseconds, bounds = sum(time for time, _ in floors), max(floors)[1]
        return cls(microseconds, len(floors) * flops, len(floors) * moved, bounds)


def patch_bytes(operator: Operator, geometry: ConvGeometry, itemsize: int) -> int:
    """Return the bytes of all patches: each position reads one pixel of the image for each tap.

    In dgrad, each position's features are read once for each tap. Taps in the padding count too.
    """
    channels = geometry.F if operator == "dgrad" else geometry.C
    return itemsize * geometry.B * geometry.P * geometry.Q * geometry.R * geometry.S * channels
