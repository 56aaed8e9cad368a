"""The roofline: how long a pass would take at the ceilings of a machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.layers import read
from bench.run import roof
from bench.run.measure import timed
from bench.run.roof import Roof
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
    times = Times(device=[2000.0] * 3, wall=[3000.0] * 3, host=[1000.0] * 3, extra_bytes=7, how="graph")
    found = timed(times, Roof(1000.0, 4 * 10**12, 8 * 10**9, "memory"))
    assert (found["tflops"], found["gbps"], found["roof"]) == (2000.0, 4000.0, 0.5)
    medians = [found[name]["median"] for name in ("device_us", "wall_us", "host_us")]
    assert medians == [2000.0, 3000.0, 1000.0]
    assert (found["extra_bytes"], found["how"], found["bound"]) == (7, "graph", "memory")
    on_cpu = timed(Times(wall=[500.0]), Roof(1000.0, 4 * 10**12, 8 * 10**9, "memory"))
    assert (on_cpu["roof"], on_cpu["device_us"], on_cpu["host_us"]) == (2.0, None, None)


def test_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of n^3 multiplications and additions, and copies that read and write, each take a millisecond."""
    monkeypatch.setattr(roof, "LARGE", dict.fromkeys(("cpu", "cuda"), (100, 1 << 10)))
    monkeypatch.setattr(roof, "_seconds", lambda call, device: call() and 1e-3)
    found = roof.ceilings(["float32"], torch.device("cpu"))
    assert found == {
        "float32": pytest.approx(2 * 100**3 / 1e-3 / 1e12),
        "copy": pytest.approx(2 * 1024 / 1e-3 / 1e9, 1e-3),
    }
    monkeypatch.setattr(roof, "in_l2", lambda device: 16384)
    monkeypatch.setattr(roof, "_copy", lambda size, times, device: 1e-3)
    monkeypatch.setattr(roof, "_product", lambda dtype, extent, device: 1e-3)
    assert roof.ceilings([], torch.device("cuda"))["l2"] == pytest.approx(64 * 2 * 16384 / 1e-3 / 1e9, 1e-3)


def test_a_large_copy_fits_into_no_cache() -> None:
    """Linux says how large the last cache of this CPU is."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [
        int(size.removesuffix("K")) << 10 for size in (path.read_text().strip() for path in caches) if size[-1:] == "K"
    ]
    assert roof.LARGE["cpu"][1] >= max(sizes, default=0)
