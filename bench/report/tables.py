"""A run in Markdown: the machine, how fast each layer is beside torch, and what was not timed."""

from collections.abc import Sequence

from bench import table
from bench.report import above_roof, compare, legend, rehearsal
from bench.report.between_processes import from_processes
from bench.report.compare import CLOCKS, NAMES
from bench.report.numbers import by_reason
from bench.report.origin import describe, is_rehearsal
from bench.report.ratio_tables import families, layers
from bench.report.summary import Comparison
from bench.results import Results, Row
from bench.table import Part


def report(run: Results) -> str:
    """Return the machine, one table for each contender, dtype and yardstick, and what was not timed, as Markdown."""
    return table.joined(parts(run))


def parts(run: Results) -> list[Part]:
    """Return the paragraphs and tables of a report: the machine, the legend, and then the tables.

    A rehearsal has times instead of ratios, because its ratios would say nothing about the layers.
    """
    start: list[Part] = ["# Throughput", describe(run)]
    if is_rehearsal(run):
        return [*start, *rehearsal.times(run)]
    start.append(legend.legend(run))
    for dtype, contender, baseline in compared(run["rows"]):
        title = f"## {contender} over {NAMES[baseline]}, {dtype}"
        main = Comparison.of(run["rows"], contender, dtype, baseline)
        held = Comparison.between([row for row in run["rows"] if row.get("held_out")], contender, dtype, baseline)
        start += [title, *(beside_yardstick(main, run) if main else [nothing(run["rows"], contender, dtype, baseline)])]
        if held:
            start += [f"{title}: held-out layers", *beside_yardstick(held, run)]
        start.append(untimed(compare.judged_by(baseline, run["rows"]), contender, dtype))
    return start


def beside_yardstick(comparison: Comparison, run: Results) -> list[Part]:
    """Return what one comparison shows: what a ratio says, the means, the layers, and why some are above the roof."""
    return [
        f"{legend.SAYS[comparison.as_time]} {from_processes(comparison)}",
        families(comparison),
        layers(comparison),
        left_out(comparison),
        above_roof.listed_reasons(run, comparison),
    ]


def nothing(rows: Sequence[Row], contender: str, dtype: str, baseline: str) -> str:
    """Return a sentence on why there is no table, if rows were timed but all ratios are noise. Else an empty text."""
    listed_rows = [row for row in rows if not row.get("held_out")]
    count = sum(len(compare.pairs(listed_rows, contender, dtype, baseline, clock)) for clock in CLOCKS)
    return f"No ratio is shown: {legend.because_of_noise(count)}" if count else ""


def left_out(comparison: Comparison) -> str:
    """Return sentences that say how many ratios are left out as noise, and for whom they were. Empty if none is."""
    count = sum(map(len, comparison.noise.values()))
    if not count:
        return ""
    start = f"{count} of the ratios {'is' if count == 1 else 'are'} left out: {legend.because_of_noise(count)}"
    return f"{start} By medians, {comparison.contender} is slower in {slower(comparison)} of {count}."


def slower(comparison: Comparison) -> int:
    """Return in how many of the ratios that are left out as noise the contender is slower, by medians."""
    about = comparison.contender, comparison.dtype, comparison.baseline
    pairs = {clock: compare.pairs(comparison.rows, *about, clock) for clock in comparison.noise}
    both = [pairs[clock][place] for clock, places in comparison.noise.items() for place in places]
    return sum(mine["median"] > other["median"] for mine, other in both)


def compared(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return each dtype, contender and yardstick that has rows, without the yardsticks themselves and torch."""
    found = dict.fromkeys((row["dtype"], row["contender"], compare.yardstick(row["family"])) for row in rows)
    return [each for each in found if each[1] not in (compare.BASELINE, each[2])]


def untimed(rows: Sequence[Row], contender: str, dtype: str) -> str:
    """Return a list of the reasons why rows have no time, each with its number of rows and up to three of them."""
    missing = [row for row in compare.of(rows, contender, dtype).values() if row["status"] != "ok"]
    return by_reason((f"{row['status']}: {row['reason']}", f"{row['layer']} {row['pass']}") for row in missing)
