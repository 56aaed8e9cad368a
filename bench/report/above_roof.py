"""Why a time is shorter than the least time of its roofline.

Such a time is no error by itself. The roofline counts products in the padding and each byte once, and its ceilings are
rates that some kernel reached, not limits of the machine.
"""

from collections.abc import Iterable
from functools import cache
from math import prod
from pathlib import Path
from typing import NamedTuple

from bench import layers
from bench.report.compare import Place
from bench.report.numbers import by_reason, percent
from bench.report.summary import Comparison
from bench.results import Results, Row
from bench.run.contenders import DTYPES, OURS
from tritonconv.geometry import LEAVES_OUT, ConvGeometry, Operator

# A contender whose RMS error is this many times ours adds up fewer products than ours, as Winograd's algorithm does.
LESS_ACCURATE = 1.4
HELD_OUT = Path(layers.__file__).with_name("held_out.csv")


class Reason(NamedTuple):
    """What makes a time shorter than its roofline allows: the share of the least time that it saves, and words.

    `saves` is None if this cannot be computed.
    """

    saves: float | None
    words: str


def why(row: Row, run: Results, ours: Row | None = None) -> str | None:
    """Return why a row's share of the roofline is above 1; None if it is not above 1.

    `ours` is a row of this repository in the same layer, pass and dtype, to compare errors with. If the reasons save
    less than what the row is above its roofline, the words say that the rest is unexplained.
    """
    if not row.get("roof") or row["roof"] <= 1:
        return None
    geometry = geometry_of(row)
    known = [padding(row, geometry), fits_in_l2(row, run, geometry), clock(row, run), fewer_products(row, ours)]
    found = [reason for reason in known if reason]
    left = row["roof"] * prod(1 - reason.saves for reason in found if reason.saves is not None)
    words = [reason.words for reason in found]
    if left > 1 and all(reason.saves is not None for reason in found):
        words.append("the rest is unexplained" if found else "unexplained")
        words += unknown(row, run)
    return "; ".join(words)


def padding(row: Row, geometry: ConvGeometry | None) -> Reason | None:
    """Return the share of the products that lie in the padding, if arithmetic bounds the row. They need no time."""
    if row["bound"] != "arithmetic" or geometry is None:
        return None
    share = 1 - inside(geometry)
    return Reason(share, f"{percent(share)} of the products lie in the padding and need not be computed") if share else None


def inside(geometry: ConvGeometry) -> float:
    """Return the share of all pairs of a position and a tap whose pixel lies in the image, not in the padding."""
    rows = reached(geometry.P, geometry.R, geometry.stride_h, geometry.dilation_h, geometry.pad_h, geometry.H)
    across = reached(geometry.Q, geometry.S, geometry.stride_w, geometry.dilation_w, geometry.pad_w, geometry.W)
    return rows * across / (geometry.P * geometry.Q * geometry.R * geometry.S)


def reached(positions: int, taps: int, stride: int, dilation: int, pad: int, extent: int) -> int:
    """Return how many pairs of a position and a tap see a pixel of the image, along one axis."""
    return sum(0 <= p * stride + r * dilation - pad < extent for p in range(positions) for r in range(taps))


def fits_in_l2(row: Row, run: Results, geometry: ConvGeometry | None) -> Reason | None:
    """Return the share of the bytes that results can leave in the L2 cache, if memory bounds the row.

    The time of a pass ends before these bytes are written to memory. The operands of a CPU can be in its caches, which
    are not cold.
    """
    if row["bound"] != "memory":
        return None
    if not run["environment"]["gpu"]:
        return Reason(None, "the caches of a CPU are not cold, so operands need not come from memory")
    size = run["environment"].get("l2_bytes")
    if geometry is None or size is None:
        return None
    kept = sum(min(size, result) for result in results_of(row, geometry))
    share = kept / row["bytes"]
    return Reason(share, f"results can stay in the L2 cache, which takes up to {percent(share)} of the bytes")


def results_of(row: Row, geometry: ConvGeometry) -> list[int]:
    """Return the bytes of the result of each operator of the row's pass."""
    size = DTYPES[row["dtype"]].itemsize
    operators: dict[str, tuple[Operator, ...]] = {"step": ("fprop", "dgrad", "wgrad")}
    if row["pass"] == "forward":
        operators["forward"] = ("dgrad" if layer_of(row["layer"]).case.transposed else "fprop",)  # type: ignore
    return [size * prod(geometry.shape_of(LEAVES_OUT[each])) for each in operators.get(row["pass"], (row["pass"],))]


def clock(row: Row, run: Results) -> Reason | None:
    """Return how much faster the multiprocessors ran than when their ceiling was measured. DRAM has its own clock."""
    ceiling = {"arithmetic": row["dtype"], "L2": "l2"}.get(row["bound"], "")
    then, now = (run.get("ceiling_clocks") or {}).get(ceiling), row.get("clock_mhz")
    if not then or not now or now <= then:
        return None
    return Reason(1 - then / now, f"the clock was {percent(now / then - 1)} higher than while the ceiling was measured")


def fewer_products(row: Row, ours: Row | None) -> Reason | None:
    """Return that the algorithm takes fewer products than the roofline counts, if its error is well above ours."""
    if row["contender"] in OURS or ours is None or not ours.get("error_rms") or not row.get("error_rms"):
        return None
    factor = row["error_rms"] / ours["error_rms"]
    if factor < LESS_ACCURATE:
        return None
    return Reason(None, f"its error is {factor:.1f} times ours, so its algorithm takes fewer products (as Winograd's does)")


def unknown(row: Row, run: Results) -> list[str]:
    """Return what the record does not say, although it could explain the rest."""
    missing = []
    if run["environment"]["gpu"] and row["bound"] == "memory" and run["environment"].get("l2_bytes") is None:
        missing.append("the size of the L2 cache is unknown")
    if run["environment"]["gpu"] and row["bound"] != "memory" and not row.get("clock_mhz"):
        missing.append("the clock is unknown")
    if "ceilings_from" not in run:
        missing.append("the ceiling is that of a single kernel")
    return missing
