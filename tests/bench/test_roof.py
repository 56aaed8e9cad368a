"""The roofline: how long a pass would take at the ceilings of a machine."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.layers import read
from bench.run import roof
from bench.run.measure import timed
from bench.run.roof import Roof
from bench.run.sensors import Reading
from bench.run.timing import Times
from tritonconv.geometry import ConvGeometry

GEOMETRY = ConvGeometry(B=2, C=4, H=5, W=5, F=8, P=3, Q=3, R=3, S=3)


FLOPS = 2 * 2 * 8 * 9 * 4 * 9


BYTES = 4 * (2 * 4 * 25 + 8 * 4 * 9 + 2 * 8 * 9)


class Tensors:
    """The attributes of a problem that the roofline reads."""

    dtype = "float32"
    geometry = GEOMETRY
    x = torch.zeros(1)
    layer = next(layer for layer in read() if layer.name == "rn50_c3_3x3")


@pytest.mark.parametrize(
    ("ceilings", "microseconds", "bound"),
    [
        ({"float32": 1e-3, "copy": 1e9}, FLOPS / 1e3, "arithmetic"),  # 1e-3 TFLOP/s are 1e3 a microsecond
        ({"float32": 1e9, "copy": 1e-1}, BYTES / 1e2, "memory"),  # 0.1 GB/s are 100 bytes a microsecond
        ({"float32": 1e9, "copy": 1e-1, "read": 2e-1}, BYTES / 2e2, "memory"),
    ],
)
@pytest.mark.parametrize(("of", "operators"), [("fprop", 1), ("step", 3)])
def test_the_roof(of: Any, operators: int, ceilings: dict[str, float], microseconds: float, bound: str) -> None:
    found = Roof.of(of, Tensors, ceilings)  # type: ignore[arg-type]
    assert found.microseconds == pytest.approx(operators * microseconds)
    assert (found.flops, found.bytes, found.bound) == (operators * FLOPS, operators * BYTES, bound)


LOCAL = replace(GEOMETRY, varies="p q")


LOCAL_BYTES = 4 * (2 * 4 * 25 + 9 * 8 * 4 * 9 + 2 * 8 * 9)


# The bytes of the patches: 2 images * 9 positions * 9 taps, and 4 channels of the image. In dgrad, 8 of the features.
OF_IMAGE, OF_FEATURES = 4 * 2 * 9 * 9 * 4, 4 * 2 * 9 * 9 * 8


class LocalTensors(Tensors):
    geometry = LOCAL
    layer = next(layer for layer in read() if layer.name == "local_3x3_64_at_14")


@pytest.mark.parametrize(
    ("of", "copy", "l2", "microseconds", "bound"),
    [
        ("fprop", 1e9, 1e-1, OF_IMAGE / 1e2, "L2"),
        ("dgrad", 1e9, 1e-1, OF_FEATURES / 1e2, "L2"),
        ("wgrad", 1e9, 1e-1, OF_IMAGE / 1e2, "L2"),
        ("step", 1e9, 1e-1, (2 * OF_IMAGE + OF_FEATURES) / 1e2, "L2"),
        ("step", 1e-1, 1e9, 3 * LOCAL_BYTES / 1e2, "memory"),
        # Only in dgrad do the patches take longer than the operands.
        ("step", 1e-1, 4e-2, 2 * LOCAL_BYTES / 1e2 + OF_FEATURES / 4e1, "L2"),
    ],
)
def test_the_roof_of_local_layers(of: Any, copy: float, l2: float, microseconds: float, bound: str) -> None:
    """Each operator is bound by the slower of two: operands through memory, or patches through the L2 cache."""
    found = Roof.of(of, LocalTensors, {"float32": 1e9, "copy": copy, "l2": l2})  # type: ignore[arg-type]
    assert (found.microseconds, found.bound) == (pytest.approx(microseconds), bound)
    assert found.bytes == (3 if of == "step" else 1) * LOCAL_BYTES


def test_without_a_rate_of_the_l2_cache_local_layers_have_no_roof() -> None:
    """Nothing is claimed on a CPU, and their times count all the same."""
    found = Roof.of("step", LocalTensors, {"float32": 1e9, "copy": 1e9})  # type: ignore[arg-type]
    assert found == (None, 3 * FLOPS, 3 * LOCAL_BYTES, None)
    row = timed(Times(wall=[500.0]), found)
    assert (row["roof"], row["bound"]) == (None, None)
    assert row["tflops"] == pytest.approx(3 * FLOPS / 500 / 1e6, rel=1e-3)


def test_what_follows_from_a_time() -> None:
    """4 TFLOP and 8 GB in 2 milliseconds, where the roofline allows 1. An eager call takes 3, the host 1."""
    sensed = [Reading(clock, watts) for clock, watts in ((1700, 600), (1980, 500), (1755, 700))]
    times = Times(device=[2000.0] * 3, wall=[3000.0] * 3, host=[1000.0] * 3, extra_bytes=7, how="graph")
    times.warm, times.sensed = [1500.0] * 3, sensed
    found = timed(times, Roof(1000.0, 4 * 10**12, 8 * 10**9, "memory"))
    assert (found["tflops"], found["gbps"], found["roof"]) == (2000.0, 4000.0, 0.5)
    medians = [found[name]["median"] for name in ("device_us", "warm_us", "wall_us", "host_us")]
    assert medians == [2000.0, 1500.0, 3000.0, 1000.0]
    assert (found["cold"], found["clock_mhz"], found["watts"]) == ("read", 1755, 600)
    assert (found["extra_bytes"], found["how"], found["bound"]) == (7, "graph", "memory")
    on_cpu = timed(Times(wall=[500.0]), Roof(1000.0, 4 * 10**12, 8 * 10**9, "memory"))
    assert (on_cpu["roof"], on_cpu["device_us"], on_cpu["warm_us"], on_cpu["host_us"]) == (2.0, None, None, None)
    assert (on_cpu["cold"], on_cpu["clock_mhz"], on_cpu["watts"]) == (None, None, None)


@pytest.fixture
def timed_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Products of two sizes, a large copy of a KiB, and calls that take as many milliseconds as the list says.

    Calls are made, so that what raises is noticed. The clock is 1,000 MHz in the first call, 1,001 in the next.
    """
    milliseconds: list[int] = []
    clocks = count(1000)

    def seconds(call: Any, device: Any) -> tuple[float, float]:
        call()
        return milliseconds.pop(0) / 1e3, next(clocks)

    sizes = ((10, 10, 10), (20, 10, 30))
    monkeypatch.setattr(roof, "PRODUCTS", {"cpu": sizes})
    monkeypatch.setattr(roof, "LARGE", {"cpu": 1 << 10})
    monkeypatch.setattr(roof, "_seconds", seconds)
    return milliseconds


def test_a_ceiling_is_the_best_of_several_products(timed_calls: list[int]) -> None:
    """The products have 2,000 and 12,000 operations. In float32 the second is faster, in bfloat16 the first."""
    timed_calls += [1, 2, 1, 8, 1, 1]
    found = roof.ceilings(["float32", "bfloat16"], torch.device("cpu"))
    assert found.rates["float32"] == pytest.approx(12_000 / 2e-3 / 1e12)
    assert found.rates["bfloat16"] == pytest.approx(2_000 / 1e-3 / 1e12)
    assert found.products == {"float32": "20 x 10 x 30", "bfloat16": "10 x 10 x 10"}
    assert found.clocks == {"float32": 1001, "bfloat16": 1002}
    assert set(found.in_record) == {"ceilings", "ceilings_from", "ceiling_clocks"}


def test_large_products_in_float32_are_left_out(timed_calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roof, "MOST_IN_FLOAT32", 11_999)
    timed_calls += [1]
    assert [name for _, name, _ in roof.products("float32", torch.device("cpu"))] == ["10 x 10 x 10"]
    timed_calls += [1, 1]
    assert len([*roof.products("tf32", torch.device("cpu"))]) == 2


def test_memory_has_the_rate_of_a_copy_and_that_of_reading(timed_calls: list[int]) -> None:
    """A copy moves 2,048 bytes in 4 milliseconds. Reading moves 1,024 bytes in one, so it is twice as fast."""
    timed_calls += [4, 1]
    found = roof.ceilings([], torch.device("cpu")).rates
    assert found == {"copy": pytest.approx(2048 / 4e-3 / 1e9, 1e-3), "read": pytest.approx(1024 / 1e-3 / 1e9, 1e-3)}
    assert roof.memory_rate(found) == found["read"]
    assert roof.memory_rate({"copy": 3.0}) == 3.0


def test_a_gpu_has_rates_of_its_l2_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 copies of 16,384 bytes take 2 milliseconds, and reading them 64 times takes one."""
    monkeypatch.setattr(roof, "in_l2", lambda device: 16384)
    monkeypatch.setattr(roof, "_copy", lambda size, times, device: 2e-3)
    monkeypatch.setattr(roof, "_read", lambda size, times, device: 1e-3)
    found = roof.ceilings([], torch.device("cuda")).rates
    assert found["l2"] == found["l2_read"] == pytest.approx(64 * 16384 / 1e-3 / 1e9, 1e-3)
    assert roof.l2_rate({"copy": 1.0}) is None
    assert roof.l2_rate({"l2": 2.0}) == 2.0
    assert roof.l2_rate({"l2": 2.0, "l2_read": 5.0}) == 5.0


def test_a_ceiling_takes_the_faster_of_cold_and_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    sensed = [Reading(clock, 1.0) for clock in (1700, 1900, 1800)]
    times = Times(device=[5.0, 4.0, 6.0], warm=[3.0, 2.0, 4.0], sensed=sensed)
    monkeypatch.setattr(roof, "on_device", lambda calls, device: {"it": times})
    assert roof._seconds(lambda: (), torch.device("cuda")) == (3e-6, 1800)
    times.warm, times.sensed = [], []
    assert roof._seconds(lambda: (), torch.device("cuda")) == (5e-6, None)


def test_a_large_copy_fits_into_no_cache() -> None:
    """Linux says how large the last cache of this CPU is."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [
        int(size.removesuffix("K")) << 10 for size in (path.read_text().strip() for path in caches) if size[-1:] == "K"
    ]
    assert roof.LARGE["cpu"] >= max(sizes, default=0)
