"""The table of every time of a run, and of the memory, the clock and the power."""

from bench.report.between_processes import processes, share
from bench.report.legend import TUNED, UNREAD, written
from bench.report.numbers import microseconds, significant
from bench.report.ratio_tables import without_empty
from bench.report.tuned import MARK, tuned
from bench.results import Results, Row
from bench.table import Table

LEGEND = """\
- Times are medians in microseconds. Those of the device and of eager calls have their 20th and 80th percentile.
- "device us" is with a cold L2 cache. "extra MB" is the peak of memory beside operands and results, and "peak" that of
  all memory as a multiple of them."""
# What the columns mean that only some runs have.
WARM = '- "warm us" is the time on the device in a second replay, which finds in the L2 cache what the first one left.'
SENSORS = """\
- "MHz" is the clock of the multiprocessors between the runs of a row, and "W" the power. The driver may take up to a
  second for a reading, so both are of all contenders that took turns."""
PROCESSES = """\
- "processes" says from how many processes a row is, and how much the medians of its device times differ, or of its
  eager times if there are no others. Such a row has the smallest p20 and the largest p80 of its processes."""
ALONE = "- Each row is from one process."


def details(run: Results) -> str:
    """Return the legend and the table of every time."""
    rows = [row for row in run["rows"] if row["status"] == "ok"]
    return "\n\n".join(["## Every time", legend(run, rows), str(every_time(rows))]) + "\n"


def legend(run: Results, rows: list[Row]) -> str:
    """Return what the columns mean that this run has."""
    lines = [LEGEND]
    lines += [UNREAD] * written(run)
    lines += [WARM] * any(row.get("warm_us") for row in rows)
    lines += [SENSORS] * any(row.get("clock_mhz") or row.get("watts") for row in rows)
    lines += [TUNED] * any(tuned(row) for row in rows)
    lines.append(PROCESSES if any(processes(row) > 1 for row in rows) else ALONE)
    return "\n".join(lines)


def every_time(rows: list[Row]) -> Table:
    """Return the table of these rows, without the columns that none of them has."""
    several = any(processes(row) > 1 for row in rows)
    body = [line(row, several) for row in rows]
    header = list(body[0]) if body else ["layer"]
    return without_empty(Table(header, [[each[name] for name in header] for each in body]))


def line(row: Row, several: bool) -> dict[str, str | None]:
    """Return the cells of a row by the names of their columns. `several` asks for the number of processes."""
    device = microseconds(row["device_us"], with_spread=True)
    if device and row["how"] != "graph":
        device += " (not replayed)"
    return {
        "layer": row["layer"],
        "pass": row["pass"],
        "dtype": row["dtype"],
        "contender": row["contender"],
        "device us (p20-p80)": device,
        "warm us": microseconds(row.get("warm_us")),
        "eager us (p20-p80)": microseconds(row["wall_us"], with_spread=True),
        "host us": microseconds(row["host_us"]),
        "extra MB": None if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e6:.1f}",
        "peak": None if row.get("peak") is None else significant(row["peak"]),
        "TFLOP/s": significant(row["tflops"]),
        "MHz": rounded(row.get("clock_mhz")),
        "W": rounded(row.get("watts")),
        "processes": apart(row) if several else None,
        "tile": ", ".join(dict.fromkeys(row.get("tile", {}).values())) + MARK * bool(tuned(row)),
    }


def rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"


def apart(row: Row) -> str:
    """Return from how many processes a row is, and in brackets how much the medians differ: "2 (1.2 %)"."""
    between = row.get("between") or {}
    ratio = between.get("device_us") or between.get("wall_us")
    return f"{processes(row)}{f' ({share(ratio)})' if ratio else ''}"
