"""Ratios of times: which rows are compared with which, when a ratio is no more than noise, and geometric means."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from typing import Literal

from bench.layers import FAMILIES, VARYING
from bench.results import Row
from bench.run.contenders import INSTEAD

# The contender whose time is 1: torch's own layer, or unfold + einsum for layers that torch does not have. These are
# the families whose weight varies.
BASELINE, SUBSTITUTE = "torch", INSTEAD[0]
NAMES = {BASELINE: "torch", SUBSTITUTE: "unfold + einsum"}
# A ratio is shown, and counts in a mean, only if the p80 of either time is at most this many times its p20. Published
# ratios from before this limit keep to it: their widest spread is 3.32, of a call that takes a CPU 125 us.
NOISE = 3.5
# What is published of ours: the contender that runs on a GPU, and the one that runs on a CPU.
GPU_CONTENDER, CPU_CONTENDER = "triton", "reference"
# A place is a layer and a pass.
Place = tuple[str, str]
# The median, p20 and p80 of a time in microseconds, by name.
Spread = dict[str, float]
# device: replays of a CUDA graph with a cold L2 cache. eager: calls as a user makes them.
Clock = Literal["device", "eager"]
CLOCKS: tuple[Clock, ...] = ("device", "eager")


def yardstick(family: str) -> str:
    """Return the contender that the others are compared with in layers of this family."""
    return SUBSTITUTE if family in VARYING.values() else BASELINE


def judged_by(baseline: str, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the layers whose yardstick is `baseline`."""
    return [row for row in rows if yardstick(row["family"]) == baseline]


def in_families(family_of: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the layers of each family, in the order of FAMILIES, from the family of each layer.

    Families that FAMILIES does not have come last.
    """
    known = [*FAMILIES, *sorted(set(family_of.values()) - set(FAMILIES))]
    members = {family: [layer for layer, its in family_of.items() if its == family] for family in known}
    return {family: layers for family, layers in members.items() if layers}


def times(row: Row | None, beside: Row | None, clock: Clock | None = None) -> Spread | None:
    """Return median, p20 and p80 of `row` in microseconds, to be compared with those of `beside`.

    "device" takes the times on the device, where both rows were timed there in the same way, with the L2 cache cooled
    in the same way. "eager" takes those of eager calls. Without a clock, the times on the device are taken where that
    is possible, else the eager ones. None if a row or its time is missing.
    """
    if row is None or beside is None or {row["status"], beside["status"]} != {"ok"}:
        return None
    alike = all(row.get(name) == beside.get(name) for name in ("how", "cold"))
    same = alike and row.get("device_us") and beside.get("device_us")
    if clock is None:
        clock = "device" if same else "eager"
    found: Spread | None = row["wall_us"] if clock == "eager" else row["device_us"] if same else None
    return found


def of(rows: Iterable[Row], contender: str, dtype: str) -> dict[Place, Row]:
    """Return the rows of a contender in a dtype, by layer and pass."""
    return {(row["layer"], row["pass"]): row for row in rows if (row["contender"], row["dtype"]) == (contender, dtype)}


def pairs(
    rows: Sequence[Row], contender: str, dtype: str, baseline: str = BASELINE, clock: Clock | None = None
) -> dict[Place, tuple[Spread, Spread]]:
    """Return the times of a contender and of the baseline, for each layer and pass in which both were timed by `clock`.

    Only layers whose yardstick is the baseline count.
    """
    found = {}
    rows = judged_by(baseline, rows)
    theirs = of(rows, baseline, dtype)
    for place, row in of(rows, contender, dtype).items():
        mine, other = times(row, theirs.get(place), clock), times(theirs.get(place), row, clock)
        if mine and other:
            found[place] = mine, other
    return found


def side_by_side(row: Row, beside: Row) -> bool:
    """Whether two rows have times from the same run. Rows of a single run do not say from which they are."""
    one, other = row.get("measured"), beside.get("measured")
    return one is None or other is None or not set(one).isdisjoint(other)


def is_noise(pair: Iterable[Spread]) -> bool:
    """Whether one of two times varies so much within its run that their ratio says nothing (`NOISE`)."""
    return any(spread["p80"] > NOISE * spread["p20"] for spread in pair)


def speedups(
    rows: Sequence[Row], contender: str, dtype: str, baseline: str = BASELINE, clock: Clock | None = None
) -> dict[Place, float]:
    """Return how many times as fast as the baseline a contender is, by medians, for each of the `pairs`.

    Ratios that are noise are left out.
    """
    return {
        place: other["median"] / mine["median"]
        for place, (mine, other) in pairs(rows, contender, dtype, baseline, clock).items()
        if not is_noise((mine, other))
    }


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean of ratios, which is 1 for 2 and 1/2, or None if there are no values."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None
