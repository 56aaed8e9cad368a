"""From how many processes a comparison is, and how much their times differ."""

from collections.abc import Sequence
from statistics import median

from bench.report.compare import Clock
from bench.report.numbers import percent
from bench.report.summary import Comparison
from bench.results import Row

FIELDS: dict[Clock, str] = {"device": "device_us", "eager": "wall_us"}
IN_WORDS: dict[Clock, str] = {"device": "on the device", "eager": "in eager mode"}


def processes(row: Row) -> int:
    """Return from how many processes a row is. Rows that do not say so are from one."""
    return int(row.get("processes", 1))


def from_processes(comparison: Comparison) -> str:
    """Return in sentences from how many processes the times of a comparison are, and how much these differ.

    They also say if contenders did not take turns, because their times are from different runs.
    """
    return f"{spread_of(comparison)}{not_side_by_side(comparison)}"


def not_side_by_side(comparison: Comparison) -> str:
    """Return a sentence on ratios of times from different runs, to follow another. Empty if there are none."""
    count = len(comparison.not_side_by_side)
    if not count:
        return ""
    total = len({place for found in comparison.ratios.values() for place in found})
    return f" **In {count} of {total} passes the two times are from different runs**, so they were not taken in turns."


def spread_of(comparison: Comparison) -> str:
    """Return in a sentence or two from how many processes the times are, and how much these differ."""
    rows = comparison.compared_rows
    several = [row for row in rows if processes(row) > 1]
    if not several:
        return "**All times are from one process**, so it is not known how much other processes would differ."
    counts = sorted({processes(row) for row in several})
    many = " or ".join(map(str, counts))
    start = f"Each time is from {many} processes."
    if len(several) < len(rows):
        start = f"{len(several)} of {len(rows)} times are from {many} processes, **the others from one**."
    said = [
        f"{IN_WORDS[clock]} by {shares(found)}" for clock in comparison.ratios if (found := between(several, clock))
    ]
    return f"{start} Their medians differ {', and '.join(said)}." if said else start


def in_short(comparison: Comparison) -> str:
    """Return the same in a few words, for a headline: "from one process" or "from 2 processes, 1.2 % apart"."""
    count = len(comparison.not_side_by_side)
    return f"{of_processes(comparison)}{f', {count} ratios of times from different runs' if count else ''}"


def of_processes(comparison: Comparison) -> str:
    """Return from how many processes the times are, in a few words."""
    rows = comparison.compared_rows
    least = min(map(processes, rows))
    if least == 1:
        alone = sum(processes(row) == 1 for row in rows)
        return "from one process" if alone == len(rows) else f"{alone} of {len(rows)} from one process"
    apart = between(rows, next(iter(comparison.ratios)))
    return f"from {least} processes" + (f", typically {share(median(apart))} apart" if apart else "")


def between(rows: Sequence[Row], clock: Clock) -> list[float]:
    """Return, for each row of several processes, the largest of their medians over the smallest."""
    found = [(row.get("between") or {}).get(FIELDS[clock]) for row in rows if processes(row) > 1]
    return [ratio for ratio in found if ratio]


def shares(ratios: Sequence[float]) -> str:
    """Return the typical and the largest difference between processes in percent."""
    typical, most = (share(ratio) for ratio in (median(ratios), max(ratios)))
    return f"{typical} typically and {most} at most"


def share(ratio: float) -> str:
    """Return how much larger than 1 a ratio is, in percent."""
    return "0 %" if ratio < 1.00005 else percent(ratio - 1)
