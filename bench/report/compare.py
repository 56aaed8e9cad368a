"""Statistics of results: ratios, geometric means, and what changed by more than its spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from bench.layers import FAMILIES
from bench.results import Results, Row, key
from bench.run.contenders import INSTEAD, OURS

# Whose time is 1: torch's own layer, or, where torch does not have it, unfold + einsum.
BASELINE, SUBSTITUTE = "torch", INSTEAD[0]
# A layer and a pass; and with contender and dtype.
Place = tuple[str, str]
Key = tuple[str, str, str, str]


def yardstick(family: str) -> str:
    """The contender that the others are compared with in layers of this family."""
    return SUBSTITUTE if family == "local" else BASELINE


def judged_by(baseline: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of the layers whose yardstick is `baseline`."""
    return [row for row in rows if yardstick(row["family"]) == baseline]


def times(row: Row | None, beside: Row | None) -> dict[str, float] | None:
    """Median, p20 and p80 in microseconds, to be compared with those of `beside`. None if one of them was not timed.

    On the device where both were timed in the same way there, else of eager calls.
    """
    if row is None or beside is None or {row["status"], beside["status"]} != {"ok"}:
        return None
    same = row.get("how") == beside.get("how") and row.get("device_us") and beside.get("device_us")
    found: dict[str, float] = row["device_us"] if same else row["wall_us"]
    return found


def of(rows: Iterable[Row], contender: str, dtype: str) -> dict[Place, Row]:
    return {(row["layer"], row["pass"]): row for row in rows if (row["contender"], row["dtype"]) == (contender, dtype)}


def speedups(rows: Sequence[Row], contender: str, dtype: str, baseline: str = BASELINE) -> dict[Place, float]:
    """How many times as fast as the baseline, by medians, where both were timed and it is the yardstick."""
    found = {}
    rows = judged_by(baseline, rows)
    theirs = of(rows, baseline, dtype)
    for place, row in of(rows, contender, dtype).items():
        mine, other = times(row, theirs.get(place)), times(theirs.get(place), row)
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
    """One row then and now.

    `factor` above 1 is slower: 1.1 takes a tenth longer. None if there is no result any more. `drift` is the factor of
    the yardstick in the same place, and 1 if that is not known: what has become of the machine rather than of us.
    """

    about: Key
    factor: float | None
    drift: float
    what: str

    def __str__(self) -> str:
        how = "lost" if self.factor is None else f"{self.factor:.2f} times as long (its yardstick {self.drift:.2f})"
        return f"{' '.join(self.about)}: {how}, {self.what}"

    def fails(self, threshold: float) -> bool:
        """Whether one of ours lost its result, or got slower by more than `threshold`, also beside its yardstick."""
        if self.about[2] not in OURS:
            return False
        return self.factor is None or min(self.factor, self.factor / self.drift) > 1 + threshold


def changes(new: Sequence[Row], old: Sequence[Row]) -> list[Change]:
    """What is slower or faster beyond the spread, slowest first: the p20 of the one lies above the p80 of the other.

    A result that was right and is none any more counts as a change; what is only in one of the two does not.
    """
    before, after = ({key(row): row for row in rows} for rows in (old, new))
    found = []
    for about, row in after.items():
        then, now = times(before.get(about), row), times(row, before.get(about))
        if then and now:
            if now["p20"] > then["p80"] or now["p80"] < then["p20"]:
                what = f"{then['median']:.1f} -> {now['median']:.1f} us"
                found.append(Change(about, now["median"] / then["median"], drift(row, before, after), what))
        elif about in before and before[about]["status"] == "ok":
            found.append(Change(about, None, 1.0, f"{row['status']}: {row['reason']}"))
    return sorted(found, key=lambda change: -(change.factor or float("inf")))


def drift(row: Row, before: Mapping[Key, Row], after: Mapping[Key, Row]) -> float:
    """The factor by which the yardstick's time has changed in the same place; 1 if that is not known."""
    place = key(row | {"contender": yardstick(row["family"])})
    then, now = (rows.get(place) for rows in (before, after))
    old, new = times(then, now), times(now, then)
    return new["median"] / old["median"] if old and new else 1.0


def differences(new: Results, old: Results) -> list[str]:
    """What beside the code may have changed the times. Raises ValueError where the runs can not be compared."""
    ours, theirs = new["environment"], old["environment"]
    for name in ("gpu", "cpu") if not ours["gpu"] else ("gpu",):
        if ours[name] != theirs[name]:
            raise ValueError(f"runs on different machines can not be compared: {ours[name]}, {theirs[name]}")
    if ("rehearsal" in new) != ("rehearsal" in old) and "sample" not in new | old:
        raise ValueError("a rehearsal can not be compared with a measurement")
    if new.get("batch") != old.get("batch"):
        raise ValueError("runs at different batches can not be compared")
    names = ("driver", "torch", "triton", "cuda", "cudnn", "python")
    return [f"{name} {theirs[name]} -> {ours[name]}" for name in names if ours[name] != theirs[name]]
