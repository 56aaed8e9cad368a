"""Why a time is shorter than the least time of its roofline.

Such a time is no error by itself. The roofline counts products in the padding and each byte once, and its ceilings are
rates that some kernel reached, not limits of the machine.
"""

from functools import cache
from math import prod
from typing import NamedTuple

from bench import layers
from bench.report import compare
from bench.report.compare import Place
from bench.report.numbers import percent
from bench.report.summary import Comparison
from bench.results import Results, Row
from bench.run.contenders import DTYPES, OURS, operators_of
from tritonconv.geometry import LEAVES_OUT, ConvGeometry

# A contender whose RMS error is this many times ours may add up fewer products than ours, as Winograd's algorithm does.
LESS_ACCURATE = 2.0


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
        words.append(f"{'the rest is ' if found else ''}unexplained{unknown(row, run)}")
    return "; ".join(words)


def padding(row: Row, geometry: ConvGeometry | None) -> Reason | None:
    """Return the share of the products that lie in the padding, if arithmetic bounds the row.

    Another library need not compute them. Our implementations do, so these products save them nothing.
    """
    if row["bound"] != "arithmetic" or geometry is None or row["contender"] in OURS:
        return None
    share = 1 - inside(geometry)
    words = f"{percent(share)} of the products lie in the padding and need not be computed"
    return Reason(share, words) if share else None


def inside(geometry: ConvGeometry) -> float:
    """Return the share of all pairs of a position and a tap whose pixel lies in the image, not in the padding."""
    rows = reached(geometry.P, geometry.R, geometry.stride_h, geometry.dilation_h, geometry.pad_h, geometry.H)
    across = reached(geometry.Q, geometry.S, geometry.stride_w, geometry.dilation_w, geometry.pad_w, geometry.W)
    return rows * across / (geometry.P * geometry.Q * geometry.R * geometry.S)


def reached(positions: int, taps: int, stride: int, dilation: int, pad: int, extent: int) -> int:
    """Return how many pairs of a position and a tap see a pixel of the image, along one axis."""
    return sum(0 <= p * stride + r * dilation - pad < extent for p in range(positions) for r in range(taps))


def fits_in_l2(row: Row, run: Results, geometry: ConvGeometry | None) -> Reason | None:
    """Return the share of the bytes that can stay in the L2 cache, if memory bounds the row.

    These are results, because the time ends before they are written to memory. In a step they are also operands that
    the next operator reads again. The operands of a CPU can be in its caches, which are not cold.
    """
    if row["bound"] != "memory":
        return None
    if not run["environment"]["gpu"]:
        return Reason(None, "the caches of a CPU are not cold, so operands need not come from memory")
    size, layer = run["environment"].get("l2_bytes"), known_layers().get(row["layer"])
    if size is None or layer is None or geometry is None:
        return None
    operators = operators_of(row["pass"], layer)
    results = sum(prod(geometry.shape_of(LEAVES_OUT[operator])) for operator in operators)
    again = row["bytes"] // 3 if len(operators) == 3 else 0
    kept = min(size, results * DTYPES[row["dtype"]].itemsize) + min((len(operators) - 1) * size, again)
    share = kept / row["bytes"]
    return Reason(share, f"{percent(share)} of the bytes can stay in the L2 cache") if share else None


def clock(row: Row, run: Results) -> Reason | None:
    """Return how much faster the multiprocessors ran than when the ceiling of arithmetic was measured.

    Of several runs, only the clock at the last one's ceiling is known (`bench.results.merged`). So rows of other runs
    have no such reason.
    """
    then, now = (run.get("ceiling_clocks") or {}).get(row["dtype"]), row.get("clock_mhz")
    elsewhere = any(not name.startswith(run["environment"]["date"]) for name in row.get("measured", ()))
    if row["bound"] != "arithmetic" or not then or not now or now <= then or elsewhere:
        return None
    return Reason(1 - then / now, f"the clock was {percent(now / then - 1)} higher than while the ceiling was measured")


def fewer_products(row: Row, ours: Row | None) -> Reason | None:
    """Return that the algorithm may take fewer products than the roofline counts, if its error is well above ours.

    Only rows that arithmetic bounds have this reason: with fewer products, no fewer bytes are moved.
    """
    if row["bound"] != "arithmetic" or row["contender"] in OURS or ours is None:
        return None
    if not ours.get("error_rms") or not row.get("error_rms"):
        return None
    factor = row["error_rms"] / ours["error_rms"]
    if factor < LESS_ACCURATE:
        return None
    words = f"its error is {factor:.1f} times ours, so its algorithm may take fewer products, as Winograd's does"
    return Reason(None, words)


def unknown(row: Row, run: Results) -> str:
    """Return what the record lacks that could explain the rest, to follow "unexplained". Empty if it lacks nothing."""
    missing = []
    if run["environment"]["gpu"] and row["bound"] == "memory" and run["environment"].get("l2_bytes") is None:
        missing.append("the size of the L2 cache")
    if run["environment"]["gpu"] and row["bound"] != "memory" and not row.get("clock_mhz"):
        missing.append("the clock")
    if "ceilings_from" not in run:
        missing.append("ceilings of several copies and products")
    return f" (the record lacks {' and '.join(missing)})" if missing else ""


@cache
def known_layers() -> dict[str, layers.Layer]:
    """Return the layers of the benchmark by name, held-out ones included."""
    return {layer.name: layer for path in (layers.TABLE, layers.HELD_OUT) for layer in layers.read(path)}


def geometry_of(row: Row) -> ConvGeometry | None:
    """Return the geometry of a row's layer at the row's batch. None if the row is of another problem of that name."""
    layer, image = known_layers().get(row["layer"]), row.get("image")
    if layer is None or image is None:
        return None
    geometry = layer.at_batch(image[0]).geometry
    return geometry if list(geometry.image_shape) == list(image) else None


def reasons(run: Results, comparison: Comparison) -> dict[tuple[str, Place], tuple[float, str]]:
    """Return the share of the roofline and the reason of each time above its roof, by contender, layer and pass."""
    mine = compare.of(comparison.rows, comparison.contender, comparison.dtype)
    found = {}
    for row in comparison.compared_rows:
        place = row["layer"], row["pass"]
        if reason := why(row, run, mine[place] if comparison.contender in OURS else None):
            found[row["contender"], place] = row["roof"], reason
    return found


def listed_reasons(run: Results, comparison: Comparison) -> str:
    """Return a list of the times above their roofline, by reason. Empty if there is none."""
    found: dict[str, list[str]] = {}
    for (name, place), (roof, reason) in reasons(run, comparison).items():
        found.setdefault(reason, []).append(f"{name} {' '.join(place)} {percent(roof)}")
    lines = [f"- {', '.join(places)}: {reason}." for reason, places in found.items()]
    return "\n".join(["Above the roofline, and why:\n", *lines]) if lines else ""
