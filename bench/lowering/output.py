"""What `bench lowering` prints: at most a screen, unless asked for more."""

import shutil
from collections.abc import Sequence

from bench.lowering import spills as known_spills
from bench.lowering.table import LEGEND, Row, by_architecture, full, overview, worst

# The lines of a screen where the terminal does not say how many it has, and how many lines follow the tables.
LINES, AFTER = 40, 6
# At most so many figures that got worse, and so many spills, are listed.
MOST_WORSE, MOST_SPILLS = 20, 15


def tables(rows: Sequence[Row], grid: bool, long: bool) -> str:
    """Return the tables with a legend before them: of every row if `long`, or of counts if `grid`, or else a screen."""
    if grid:
        return by_architecture(rows)
    return f"{LEGEND}\n\n{full(rows) if long else screen(rows)}"


def screen(rows: Sequence[Row]) -> str:
    """Return the overview of the kernels, and as many of the worst rows as the screen holds beside the legend."""
    above = f"The worst figures of each kernel:\n{overview(rows)}"
    spilling = min(sum(row["spill_bytes"] > 0 for row in rows), MOST_SPILLS)
    used = LEGEND.count("\n") + above.count("\n") + AFTER + spilling + 4
    most = min(len(rows), max(3, shutil.get_terminal_size((120, LINES)).lines - used))
    return f"{above}\n\n{most} of {len(rows)} rows, the worst first (--long prints all):\n{worst(rows, most)}"


def spills(rows: Sequence[Row], long: bool) -> str:
    """Return which rows spill, in at most MOST_SPILLS lines, or in a line for each if `long`."""
    lines = known_spills.said(rows).splitlines()
    more = 0 if long else len(lines) - 1 - MOST_SPILLS
    return "\n".join(lines if more <= 0 else [*lines[: MOST_SPILLS + 1], f"  and {more} more: --long lists them"])


def of_all(more: int, seconds_each: float) -> str:
    """Return a line that says what --all adds: `more` kernels, each of about `seconds_each`."""
    seconds = more * seconds_each
    time = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    return f"--all adds {more:,} kernels, which take about {time} here (an estimate)."
