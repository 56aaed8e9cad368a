"""What changed between two runs: which times by more than their spread, in words, and which versions of software."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import results
from bench.report import compare
from bench.results import Results, Row, key
from bench.run.contenders import OURS

# A key is a layer, a pass, a contender and a dtype.
Key = tuple[str, str, str, str]


# A factor this near to 1 is no change in words, because it would read as 1.00.
UNCHANGED = 0.005


@dataclass(frozen=True)
class Change:
    """How one row changed between two runs.

    `factor` is the new time over the old: 1.1 is a tenth slower. It is None if the row has no result any more. `drift`
    is the same factor of the yardstick in the same layer and pass, or None if it is not known. The drift shows how the
    machine changed, as opposed to our code. `about` is the key of the row, and `what` describes the change in words.
    `yardstick` is the contender that the row is compared with.
    """

    about: Key
    factor: float | None
    drift: float | None
    what: str
    yardstick: str

    def __str__(self) -> str:
        how = "lost" if self.factor is None else f"{pace(self.factor)}{self.beside(self.factor)}"
        return f"{' '.join(self.about)}: {how} ({self.what})"

    def beside(self, factor: float) -> str:
        """Return how the yardstick changed, to follow the words on `factor`. Empty for the yardstick's own row."""
        if self.about[2] == self.yardstick:
            return ""
        name = compare.NAMES[self.yardstick]
        if self.drift is None:
            return f"; {name} itself was not timed in both runs"
        words = pace(self.drift)
        if words.split()[-1] == pace(factor).split()[-1]:
            words = words.split()[0]
        return f"; {name} itself {words}"

    def fails(self, threshold: float) -> bool:
        """Whether one of our contenders lost its result, or got slower by more than `threshold`.

        It must also have got slower by that much beside its yardstick, so that a slower machine is no failure.
        """
        if self.about[2] not in OURS:
            return False
        return self.factor is None or min(self.factor, self.factor / (self.drift or 1.0)) > 1 + threshold


def pace(factor: float) -> str:
    """Return in words how a time changed: "1.64 times slower" for the factor 1.64, "2.00 times faster" for 0.5."""
    if abs(factor - 1) < UNCHANGED:
        return "unchanged"
    return f"{max(factor, 1 / factor):.2f} times {'slower' if factor > 1 else 'faster'}"


def changes(new: Sequence[Row], old: Sequence[Row]) -> list[Change]:
    """Return the rows that got slower or faster by more than their spread: lost rows first, then the slowest first.

    A time changed by more than its spread if the p20 of one run lies above the p80 of the other. A row that had a
    time and now has none is lost. A row that is in only one of the two runs is left out.
    """
    before, after = ({key(row): row for row in rows} for rows in (old, new))
    found = []
    for about, row in after.items():
        beside = compare.yardstick(row["family"])
        then, now = compare.times(before.get(about), row), compare.times(row, before.get(about))
        if then and now:
            if now["p20"] > then["p80"] or now["p80"] < then["p20"]:
                factor, what = now["median"] / then["median"], f"{then['median']:.1f} -> {now['median']:.1f} us"
                found.append(Change(about, factor, drift(row, before, after), what, beside))
        elif about in before and before[about]["status"] == "ok":
            found.append(Change(about, None, None, f"{row['status']}: {row['reason']}", beside))
    return sorted(found, key=lambda change: -(change.factor or float("inf")))


def drift(row: Row, before: Mapping[Key, Row], after: Mapping[Key, Row]) -> float | None:
    """Return the factor by which the yardstick's time changed in the same layer and pass; None if it is not known."""
    place = key(row | {"contender": compare.yardstick(row["family"])})
    then, now = (rows.get(place) for rows in (before, after))
    old, new = compare.times(then, now), compare.times(now, then)
    return new["median"] / old["median"] if old and new else None


def differences(new: Results, old: Results) -> list[str]:
    """Return a line for each version of software, and each part of the method, that differs between the runs.

    The versions of our code do not count. Raise ValueError if the runs are of different machines or at different
    batches. A CPU with another number of threads is another machine. Raise it, too, if one run is a rehearsal and the
    other is not, unless one of them is a sample.
    """
    ours, theirs = new["environment"], old["environment"]
    if results.machine(ours) != results.machine(theirs):
        both = f"{results.machine(ours)}, {results.machine(theirs)}"
        raise ValueError(f"runs on different machines can not be compared: {both}")
    if ("rehearsal" in new) != ("rehearsal" in old) and "sample" not in new | old:
        raise ValueError("a rehearsal can not be compared with a measurement")
    if new.get("batch") != old.get("batch"):
        raise ValueError("runs at different batches can not be compared")
    names = ("driver", "torch", "triton", "cuda", "cudnn", "python", "cpu", "threads")
    lines = [f"{name} {theirs[name]} -> {ours[name]}" for name in names if ours[name] != theirs[name]]
    cooled = [{row.get("cold", "write") for row in run["rows"] if row.get("device_us")} for run in (old, new)]
    if all(cooled) and cooled[0] != cooled[1]:
        before, after = (" and ".join(sorted(each)) for each in cooled)
        lines.append(f"the L2 cache was cooled by a {before} -> {after}, so that some rows compare their eager times")
    return lines
