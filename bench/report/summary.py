"""One contender beside its yardstick: means by family, wins and losses, best and worst layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.report import compare
from bench.report.compare import CLOCKS, Clock, Place
from bench.report.tuned import tuned
from bench.results import Row
from bench.run.contenders import PASSES


@dataclass(frozen=True)
class Comparison:
    """How many times as fast as its yardstick a contender is in one dtype, by clock, layer and pass.

    All ratios are of speed: above 1 the contender is faster. `shown` turns one into the number to show. `noise` has the
    layers and passes that were timed without a ratio, because one of the times varies too much (`compare.is_noise`).
    Held-out layers are in a comparison of their own, `held_out`.
    """

    rows: Sequence[Row]
    contender: str
    dtype: str
    baseline: str
    ratios: dict[Clock, dict[Place, float]]
    noise: dict[Clock, list[Place]]
    held_out: "Comparison | None" = None

    @classmethod
    def of(
        cls, rows: Sequence[Row], contender: str, dtype: str, baseline: str = compare.BASELINE
    ) -> "Comparison | None":
        """Compare the contender with `baseline` in the layers whose yardstick `baseline` is.

        Only layers and passes count in which both were timed, for each clock on its own. Return None if there are none
        by any clock, apart from held-out layers.
        """
        apart = cls.between([row for row in rows if row.get("held_out")], contender, dtype, baseline)
        found = cls.between([row for row in rows if not row.get("held_out")], contender, dtype, baseline)
        return replace(found, held_out=apart) if found else None

    @classmethod
    def between(cls, rows: Sequence[Row], contender: str, dtype: str, baseline: str) -> "Comparison | None":
        """Compare as `of` does, in all layers of `rows` taken together."""
        ratios: dict[Clock, dict[Place, float]] = {}
        noise: dict[Clock, list[Place]] = {}
        for clock in CLOCKS:
            pairs = compare.pairs(rows, contender, dtype, baseline, clock)
            noise[clock] = [place for place, pair in pairs.items() if compare.is_noise(pair)]
            if found := compare.speedups(rows, contender, dtype, baseline, clock):
                ratios[clock] = found
        return cls(compare.judged_by(baseline, rows), contender, dtype, baseline, ratios, noise) if ratios else None

    def only(self, places: Iterable[Place]) -> "Comparison":
        """Return the comparison in these layers and passes alone."""
        wanted = set(places)
        kept = {clock: {p: ratio for p, ratio in found.items() if p in wanted} for clock, found in self.ratios.items()}
        rows = [row for row in self.rows if (row["layer"], row["pass"]) in wanted]
        return replace(self, rows=rows, ratios=kept, held_out=None)

    @property
    def by_tuning(self) -> dict[bool | None, list[Place]]:
        """The layers and passes that have a ratio, by whether a tile of the contender's row was tuned (`tuned`)."""
        mine = compare.of(self.rows, self.contender, self.dtype)
        found: dict[bool | None, list[Place]] = {}
        for place in dict.fromkeys(place for each in self.ratios.values() for place in each):
            found.setdefault(tuned(mine[place]), []).append(place)
        return found

    @property
    def compared_rows(self) -> list[Row]:
        """The rows of contender and baseline that a ratio is from."""
        places = {place for found in self.ratios.values() for place in found}
        both = [compare.of(self.rows, name, self.dtype) for name in (self.contender, self.baseline)]
        return [row for rows in both for place, row in rows.items() if place in places]

    @property
    def not_side_by_side(self) -> list[Place]:
        """The layers and passes with a ratio of two times from different runs, whose contenders did not take turns."""
        mine, other = (compare.of(self.rows, name, self.dtype) for name in (self.contender, self.baseline))
        places = dict.fromkeys(place for found in self.ratios.values() for place in found)
        return [place for place in places if not compare.side_by_side(mine[place], other[place])]

    @property
    def picture(self) -> str:
        """The name of the picture that shows this comparison."""
        return f"{self.contender}{'-varying' * (self.baseline == compare.SUBSTITUTE)}-{self.dtype}"

    @property
    def as_time(self) -> bool:
        """Whether to show how many times as long the contender takes: on a CPU, where no time is of a device."""
        return "device" not in self.ratios

    def shown(self, ratio: float) -> float:
        """Return the number to show for a ratio: the ratio, or how many times as long the contender takes."""
        return 1 / ratio if self.as_time else ratio

    @property
    def passes(self) -> list[str]:
        """The passes that were timed, in the order of PASSES."""
        timed = {of for found in self.ratios.values() for _, of in found}
        return [of for of in PASSES if of in timed]

    @property
    def families(self) -> dict[str, list[str]]:
        """The layers that were timed, by family, in the order of FAMILIES."""
        family_of = {row["layer"]: row["family"] for row in self.rows}
        return compare.in_families({layer: family_of[layer] for found in self.ratios.values() for layer, _ in found})

    def layers(self, family: str | None = None) -> list[str]:
        """Return the names of the timed layers of a family, or of all families one after another if it is None."""
        return [layer for name, layers in self.families.items() if family in (None, name) for layer in layers]

    def chosen(self, clock: Clock, of: str | None = None, family: str | None = None) -> dict[Place, float]:
        """Return the ratios by this clock in a pass and a family. None stands for all passes or families."""
        layers = set(self.layers(family))
        found = self.ratios.get(clock, {})
        return {place: ratio for place, ratio in found.items() if place[0] in layers and of in (None, place[1])}

    def mean(self, clock: Clock, of: str | None = None, family: str | None = None) -> float | None:
        """Return the geometric mean of the chosen ratios, or None if there are none."""
        return compare.geometric_mean(self.chosen(clock, of, family).values())

    def wins(self, clock: Clock, of: str | None = None) -> tuple[int, int, int]:
        """Return in how many layers and passes the contender is faster, in how many slower, and how many were timed."""
        ratios = self.chosen(clock, of).values()
        return sum(ratio > 1 for ratio in ratios), sum(ratio < 1 for ratio in ratios), len(ratios)

    def slowest_first(self, clock: Clock) -> list[Place]:
        """Return the layers and passes in the order of their ratios by this clock, the lowest first."""
        found = self.ratios[clock]
        return sorted(found, key=lambda place: found[place])

    def roof(
        self, contender: str, of: str | None = None, family: str | None = None, clock: Clock = "device"
    ) -> float | None:
        """Return the geometric mean of a contender's shares of the roofline, or None if there are none.

        Only layers and passes count in which both contenders were timed by the clock. Return None, too, if one of them
        has no share.
        """
        rows = compare.of(self.rows, contender, self.dtype)
        shares = [rows[place]["roof"] for place in self.chosen(clock, of, family)]
        return None if None in shares else compare.geometric_mean(shares)

    def peak(self, contender: str, of: str | None = None, family: str | None = None) -> float | None:
        """Return the geometric mean of a contender's peaks of memory, or None if none is known.

        A peak is a multiple of operands and results.
        """
        rows = compare.of(self.rows, contender, self.dtype)
        timed = {place for clock in self.ratios for place in self.chosen(clock, of, family)}
        return compare.geometric_mean(rows[place]["peak"] for place in timed if rows[place].get("peak"))

    def host(self, contender: str, family: str | None = None) -> float | None:
        """Return the median, over all layers and passes of a family, of a contender's host times in microseconds.

        None stands for all families. Only layers and passes count that have a ratio, so that both contenders have a
        median of the same ones. Return None if no time is known.
        """
        rows = compare.of(self.rows, contender, self.dtype)
        timed = {place for clock in self.ratios for place in self.chosen(clock, None, family)}
        found = [rows[place]["host_us"]["median"] for place in timed if rows[place].get("host_us")]
        return median(found) if found else None
