"""Tables and sentences that sum up how a contender compares with its yardstick, for the published documents."""

from collections.abc import Callable, Sequence

from bench import table
from bench.report import tables
from bench.report.compare import CLOCKS, Clock
from bench.report.summary import Comparison

ON: dict[Clock, str] = {"device": "On the device", "eager": "In eager mode"}
# How many of the best and of the worst passes are named.
NAMED = 5


def by_family(comparison: Comparison, cell: Callable[[Comparison, str, str | None], str | None]) -> str:
    """Return a table with a column for each pass and a row for each family, and for all where there are several.

    `cell` returns the text for a comparison, a pass and a family, or None.
    """
    body = [
        [tables.counted(comparison, family), *(cell(comparison, of, family) for of in comparison.passes)]
        for family in tables.grouped(comparison)
    ]
    return table.markdown(["layers", *comparison.passes], body)


def speeds(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean ratios on the device and in eager mode as in "0.95 / 0.41", or None if there is neither."""
    return joined([tables.cell(comparison.mean(clock, of, family)) for clock in CLOCKS])


def roofs(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean shares of the roofline of contender and yardstick as in "81 % / 86 %", or None."""
    both = [comparison.roof(name, of, family) for name in (comparison.contender, comparison.baseline)]
    return joined([None if roof is None else tables.percent(roof) for roof in both])


def peaks(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean peaks of memory of contender and yardstick as in "1.33 / 1.07", or None."""
    both = [comparison.peak(name, of, family) for name in (comparison.contender, comparison.baseline)]
    return joined([tables.cell(peak) for peak in both])


def slowness(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return how many times as long as its yardstick the contender takes in eager mode on average, or None."""
    return tables.cell(comparison.mean("eager", of, family), comparison=comparison)


def joined(pair: Sequence[str | None]) -> str | None:
    """Return both texts with a slash between them, and "-" for one that is missing. None if both are missing."""
    return " / ".join(map(table.text, pair)) if any(pair) else None


def faster(comparison: Comparison) -> str:
    """Return the table of who is faster in how many layers, by pass and clock."""
    names = (f"`{comparison.contender}`", tables.NAMES[comparison.baseline])
    body = []
    for clock in comparison.ratios:
        for who, name in enumerate(names):
            counts = [comparison.wins(clock, of) for of in (*comparison.passes, None)]
            body.append(
                [f"{name}, {clock}", *(f"{count[who]} of {count[2]}" if count[2] else None for count in counts)]
            )
    return table.markdown(["faster", *comparison.passes, "all passes"], body)


def verdict(comparison: Comparison, clock: Clock) -> str:
    """Return a sentence that says who is faster, how often, and by how much."""
    mean = comparison.mean(clock)
    assert mean is not None
    wins, losses, count = comparison.wins(clock)
    sides = [(wins, f"`{comparison.contender}`"), (losses, tables.NAMES[comparison.baseline])]
    (ahead, leader), (behind, other) = sides if mean >= 1 else sides[::-1]
    often = f"{ahead} of {count} passes ({other} in {behind})"
    if ahead == count:
        often = "the only pass" if count == 1 else f"all {count} passes"
    factor = tables.number(max(mean, 1 / mean))
    on_average = "" if count == 1 else " in the geometric mean"
    return f"{ON[clock]}, {leader} is faster in {often}, and {factor} times as fast{on_average}."


def extremes(comparison: Comparison) -> str:
    """Return the table of the NAMED worst and the NAMED best layers and passes by each clock, with their ratios."""
    header, columns = [], []
    for clock, ratios in comparison.ratios.items():
        order = comparison.slowest_first(clock)
        for name, places in (("worst", order[:NAMED]), ("best", order[: -NAMED - 1 : -1])):
            header.append(f"{name}, {clock}")
            columns.append([f"{layer} {of} {tables.number(ratios[layer, of])}" for layer, of in places])
    return table.markdown(header, zip(*columns, strict=False))
