"""Statistics of results: ratios, geometric means, and which times changed by more than their spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from bench.layers import FAMILIES
from bench.results import Results, Row, key
from bench.run.contenders import INSTEAD, OURS

# The contender whose time is 1: torch's own layer, or unfold + einsum for layers that torch does not have.
BASELINE, SUBSTITUTE = "torch", INSTEAD[0]
# What is published of ours: the contender that runs on a GPU, and the one that runs on a CPU.
GPU_CONTENDER, CPU_CONTENDER = "triton", "reference"
# A place is a layer and a pass. A key also has the contender and the dtype.
Place = tuple[str, str]
Key = tuple[str, str, str, str]
# device: replays of a CUDA graph with a cold L2 cache. eager: calls as a user makes them.
Clock = Literal["device", "eager"]
CLOCKS: tuple[Clock, ...] = ("device", "eager")


def yardstick(family: str) -> str:
    """Return the contender that the others are compared with in layers of this family."""
    return SUBSTITUTE if family == "local" else BASELINE


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


def times(row: Row | None, beside: Row | None, clock: Clock | None = None) -> dict[str, float] | None:
    """Return median, p20 and p80 of `row` in microseconds, to be compared with those of `beside`.

    "device" takes the times on the device, where both rows were timed there in the same way. "eager" takes those of
    eager calls. Without a clock, the times on the device are taken where that is possible, else the eager ones. None if
    a row or its time is missing.
    """
    if row is None or beside is None or {row["status"], beside["status"]} != {"ok"}:
        return None
    same = row.get("how") == beside.get("how") and row.get("device_us") and beside.get("device_us")
    if clock is None:
        clock = "device" if same else "eager"
    found: dict[str, float] | None = row["wall_us"] if clock == "eager" else row["device_us"] if same else None
    return found


def of(rows: Iterable[Row], contender: str, dtype: str) -> dict[Place, Row]:
    """Return the rows of a contender in a dtype, by layer and pass."""
    return {(row["layer"], row["pass"]): row for row in rows if (row["contender"], row["dtype"]) == (contender, dtype)}


def speedups(
    rows: Sequence[Row], contender: str, dtype: str, baseline: str = BASELINE, clock: Clock | None = None
) -> dict[Place, float]:
    """Return how many times as fast as the baseline a contender is, by medians, for each layer and pass.

    Only layers whose yardstick is the baseline count, and only passes in which both were timed by the clock.
    """
    found = {}
    rows = judged_by(baseline, rows)
    theirs = of(rows, baseline, dtype)
    for place, row in of(rows, contender, dtype).items():
        mine, other = times(row, theirs.get(place), clock), times(theirs.get(place), row, clock)
        if mine and other:
            found[place] = other["median"] / mine["median"]
    return found


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean of ratios, which is 1 for 2 and 1/2, or None if there are no values."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


@dataclass(frozen=True)
class Change:
    """How one row changed between two runs.

    `factor` is the new time over the old: 1.1 is a tenth slower. It is None if the row has no result any more. `drift`
    is the same factor of the yardstick in the same layer and pass, and 1 if it is not known. The drift shows how the
    machine changed, as opposed to our code. `about` is the key of the row, and `what` describes the change in words.
    """

    about: Key
    factor: float | None
    drift: float
    what: str

    def __str__(self) -> str:
        how = "lost" if self.factor is None else f"{self.factor:.2f} times as long (its yardstick {self.drift:.2f})"
        return f"{' '.join(self.about)}: {how}, {self.what}"

    def fails(self, threshold: float) -> bool:
        """Whether one of our contenders lost its result, or got slower by more than `threshold`.

        It must also have got slower by that much beside its yardstick, so that a slower machine is no failure.
        """
        if self.about[2] not in OURS:
            return False
        return self.factor is None or min(self.factor, self.factor / self.drift) > 1 + threshold


def changes(new: Sequence[Row], old: Sequence[Row]) -> list[Change]:
    """Return the rows that got slower or faster by more than their spread: lost rows first, then the slowest first.

    A time changed by more than its spread if the p20 of one run lies above the p80 of the other. A row that had a
    time and now has none is lost. A row that is in only one of the two runs is left out.
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
    """Return the factor by which the yardstick's time changed in the same layer and pass, or 1 if it is not known."""
    place = key(row | {"contender": yardstick(row["family"])})
    then, now = (rows.get(place) for rows in (before, after))
    old, new = times(then, now), times(now, then)
    return new["median"] / old["median"] if old and new else 1.0


def differences(new: Results, old: Results) -> list[str]:
    """Return a line for each version of software that differs between the runs. The versions of our code do not count.

    Raise ValueError if the runs are of different machines or at different batches. Raise it, too, if one is a rehearsal
    and the other is not, unless one of them is a sample.
    """
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
