"""The report of a rehearsal: times without any ratio, because its small problems say nothing about the layers."""

from bench.report.numbers import by_reason, microseconds
from bench.results import Results, Row
from bench.table import Part, Table

LEGEND = """\
The times below are those of small versions of the layers, which a machine without a GPU can take. They show that the
benchmark works. They are no results, so there are no ratios. Each is the median in microseconds, with p20 and p80."""


def times(run: Results) -> list[Part]:
    """Return what the times mean, a table of them for each dtype, and what was not timed."""
    found: list[Part] = [LEGEND]
    for dtype in dict.fromkeys(row["dtype"] for row in run["rows"]):
        found.append(side_by_side([row for row in run["rows"] if row["dtype"] == dtype]))
    return [*found, untimed(run["rows"])]


def side_by_side(rows: list[Row]) -> Table:
    """Return the table with a row for each layer and pass, and a column for each contender that has a time."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows if row["status"] == "ok"))
    found = {(row["layer"], row["pass"], row["contender"]): outcome(row) for row in rows}
    places = dict.fromkeys((row["layer"], row["pass"]) for row in rows if row["status"] != "skipped")
    body = [[*place, *(found.get((*place, name)) for name in contenders)] for place in places]
    return Table(["layer", "pass", *(f"{name} us" for name in contenders)], body)


def outcome(row: Row) -> str | None:
    """Return the time of a row as text, or its status. None if it was skipped."""
    if row["status"] != "ok":
        return None if row["status"] == "skipped" else str(row["status"])
    return microseconds(row.get("device_us") or row["wall_us"], with_spread=True)


def untimed(rows: list[Row]) -> str:
    """Return a list of the reasons why rows have no time, each with up to three of them."""
    missing = [row for row in rows if row["status"] != "ok"]
    return by_reason(
        (f"{row['contender']} {row['status']}: {row['reason']}", f"{row['layer']} {row['pass']}") for row in missing
    )
