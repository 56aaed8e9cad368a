"""The tables of ratios in a report: means by family, and every layer."""

from bench.report import compare
from bench.report.compare import CLOCKS, Clock
from bench.report.groups import groups
from bench.report.numbers import beside, number, percent
from bench.report.summary import Comparison
from bench.report.tuned import MARK, tuned
from bench.results import Row
from bench.run.contenders import PASSES
from bench.table import Table


def columns(comparison: Comparison) -> list[tuple[str, Clock]]:
    """Return the columns of a table of ratios: each pass by each clock that it was timed by."""
    return [(of, clock) for of in comparison.passes for clock in CLOCKS if comparison.chosen(clock, of)]


def families(comparison: Comparison) -> Table:
    """Return the table of means by family, pass and clock, with the share of the roofline, host time and memory."""
    shown = columns(comparison)
    names = comparison.contender, comparison.baseline
    body = []
    for name, part, family in groups(comparison):
        cells = [
            cell(part.mean(clock, of, family), mean_roof(part, clock, of, family), comparison) for of, clock in shown
        ]
        hosts = [part.host(each, family) for each in names]
        peak = beside(*(cell(part.peak(each, None, family)) for each in names))
        body.append([name, *cells, beside(*(None if host is None else f"{host:.0f}" for host in hosts)), peak])
    return without_empty(Table(["geometric means", *map(" ".join, shown), "host us", "peak memory"], body))


def without_empty(full: Table) -> Table:
    """Return a table without the columns in which no row has anything."""
    kept = [n for n, name in enumerate(full.header) if any(row[n] is not None for row in full.rows)]
    return Table([full.header[n] for n in kept], [[row[n] for n in kept] for row in full.rows])


def mean_roof(comparison: Comparison, clock: Clock, of: str, family: str | None) -> float | None:
    """Return the geometric mean of the contender's shares of the roofline, for the column of this clock and pass.

    Return None for the eager column if the pass also has a device column, which shows the share instead.
    """
    if clock == "eager" and comparison.chosen("device", of):
        return None
    return comparison.roof(comparison.contender, of, family, clock)


def layers(comparison: Comparison) -> Table:
    """Return the table of ratios with a row for each layer, and a column for each pass and clock.

    A ratio is shown as `Comparison.shown` says. The share of the roofline follows in brackets. A pass without a time
    has its status instead. Layers that were skipped in all passes are left out. A tuned layer has a mark.
    """
    mine = compare.of(comparison.rows, comparison.contender, comparison.dtype)
    shown = columns(comparison)
    body = []
    for layer, family in {row["layer"]: row["family"] for row in mine.values()}.items():
        own = [row for of in PASSES if (row := mine.get((layer, of))) and row["status"] != "skipped"]
        if own:
            name = layer + MARK * any(tuned(row) for row in own)
            body.append([name, *(outcome(comparison, mine.get((layer, of)), clock) for of, clock in shown), family])
    return Table(["layer", *map(" ".join, shown), "family"], body)


def outcome(comparison: Comparison, row: Row | None, clock: Clock) -> str | None:
    """Return the cell of one row by one clock: its ratio and share of the roofline. None if there is no row.

    If the row was not timed, the cell is its status. If its ratio is noise, the cell says so.
    """
    if row is None:
        return None
    if row["status"] != "ok":
        return str(row["status"])
    place = row["layer"], row["pass"]
    if place in comparison.noise[clock]:
        return "noise"
    with_roof = clock == "device" or not comparison.chosen("device", row["pass"])
    return cell(comparison.ratios[clock].get(place), row["roof"] if with_roof else None, comparison)


def cell(ratio: float | None, roof: float | None = None, comparison: Comparison | None = None) -> str | None:
    """Return a ratio and a share of the roofline as in "1.05 (62 %)".

    The ratio of a `comparison` becomes what this comparison shows.
    """
    parts = []
    if ratio is not None:
        parts.append(number(comparison.shown(ratio) if comparison else ratio))
    if roof is not None:
        parts.append(f"({percent(roof)})")
    return " ".join(parts) or None
