"""Statistics of results: ratios, geometric means, and what changed by more than its spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from bench.layers import FAMILIES
from bench.results import Row, key

BASELINE = "torch"
# A layer and a pass.
Place = tuple[str, str]


def times(row: Row) -> dict[str, float] | None:
    """Median, p20 and p80 in microseconds, on the device, or eager where there is none. None if it was not timed."""
    found: dict[str, float] | None = row.get("device_us") or row.get("wall_us")
    return found if row["status"] == "ok" else None


def of(rows: Iterable[Row], contender: str, dtype: str) -> dict[Place, Row]:
    return {(row["layer"], row["pass"]): row for row in rows if (row["contender"], row["dtype"]) == (contender, dtype)}


def speedups(rows: Sequence[Row], contender: str, dtype: str, baseline: str = BASELINE) -> dict[Place, float]:
    """How many times as fast as the baseline, by medians, where both were timed."""
    found = {}
    theirs = of(rows, baseline, dtype)
    for place, row in of(rows, contender, dtype).items():
        mine, other = times(row), times(theirs[place]) if place in theirs else None
        if mine and other:
            found[place] = other["median"] / mine["median"]
    return found


def geometric_mean(values: Iterable[float]) -> float | None:
    """The mean of ratios: that of 2 and 1/2 is 1. None of nothing."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


def by_family(values: Mapping[Place, float], families: Mapping[str, str], of: str) -> dict[str, tuple[float, int]]:
    """The geometric mean of each family's layers in a pass, and how many there are: in the order of FAMILIES."""
    known = [*FAMILIES, *sorted(set(families.values()) - set(FAMILIES))]
    found = {}
    for family in known:
        members = [value for (layer, pass_), value in values.items() if pass_ == of and families[layer] == family]
        mean = geometric_mean(members)
        if mean is not None:
            found[family] = mean, len(members)
    return found


@dataclass(frozen=True)
class Change:
    """One row then and now. `factor` above 1 is slower: 1.1 takes a tenth longer. None if it has no time any more."""

    about: tuple[str, ...]
    factor: float | None
    what: str

    def fails(self, threshold: float) -> bool:
        """Whether it got slower by more than `threshold`, or lost its result."""
        return self.factor is None or self.factor > 1 + threshold


def changes(new: Sequence[Row], old: Sequence[Row]) -> list[Change]:
    """What is slower or faster beyond the spread, slowest first: the p20 of the one lies above the p80 of the other.

    A result that was right and is not there any more counts as a change; what is only in one of the two does not.
    """
    before = {key(row): row for row in old}
    found = []
    for row in new:
        then = times(before[key(row)]) if key(row) in before else None
        if then is None or row["status"] == "skipped":
            continue
        now = times(row)
        if now is None:
            found.append(Change(key(row), None, f"{row['status']}: {row['reason']}"))
        elif now["p20"] > then["p80"] or now["p80"] < then["p20"]:
            factor = now["median"] / then["median"]
            found.append(Change(key(row), factor, f"{then['median']:.1f} -> {now['median']:.1f} us"))
    return sorted(found, key=lambda change: -(change.factor or float("inf")))
