"""What records of the part `switches` of `bench device` show: which switches are right, and not slow.

`tests/bench/test_switches.py` compares `decided` with the rows of `tritonconv/gpu.py`.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from math import exp, log
from pathlib import Path
from statistics import fmean

from bench import kernel_identity, results
from bench.device import exactness, exactness_units
from bench.results import Results, Row
from tests.support.blocks import ON_GPU
from tritonconv.gpu import Gpu

SWITCHES = ("host_descriptors", "dependent_launch")
# The file with the tests of dependent launches.
DEPENDENT = "tests/kernels/test_dependent_launch.py"
# A switch that makes the timed layers slower than this, in the geometric mean of their device times, is not confirmed.
SLOWER = 1.01


def confirmed(record: Results, now: dict[str, str] | None = None) -> set[str]:
    """Return the switches that a record shows to be right on its architecture, with the kernels as they are now.

    `now` are the names of these kernels, by default as `kernel_identity` finds them. A rehearsal confirms nothing. A
    switch is confirmed if

    - none of its rows is wrong or failed
    - all of its rows were made with the kernels as they are now
    - nothing is missing (`complete`)
    - it does not make the timed layers slower
    """
    if "rehearsal" in record or "sample" in record:
        return set()
    now = now or kernel_identity.names()
    found = set()
    for switch in SWITCHES:
        rows = [row for row in record["rows"] if concerns(row, switch)]
        right = not any(row["status"] in ("wrong", "failed") for row in rows)
        current = all(row["kernels"].items() <= now.items() for row in rows if "kernels" in row)
        if right and current and complete(rows, switch) and slowdown(rows) <= SLOWER:
            found.add(switch)
    return found


def refuted(record: Results, now: dict[str, str]) -> set[str]:
    """Return the switches that a record shows to be wrong on its architecture, with the kernels of these names."""
    return {
        switch
        for switch in SWITCHES
        for row in record["rows"]
        if concerns(row, switch) and row["status"] in ("wrong", "failed")
        if row.get("kernels", {}).items() <= now.items()
    }


def concerns(row: Row, switch: str) -> bool:
    """Whether a row of a record says something about a switch."""
    return row.get("switch") == switch or (row["what"] == "tests" and (row["file"], switch) == (DEPENDENT, SWITCHES[1]))


def complete(rows: Sequence[Row], switch: str) -> bool:
    """Whether these rows of a switch show all that they must.

    For `host_descriptors`, each unit of `exactness` must be ok, with descriptors as the host makes them now. If the
    host makes none, the unit must be skipped. For `dependent_launch`, the tests must be ok, none of them skipped, and
    at least one timed layer must be ok.
    """
    ok = [row for row in rows if row["status"] == "ok"]
    if switch == "dependent_launch":
        return {"tests", "times"} <= {row["what"] for row in ok if "skipped" not in row.get("outcomes", {})}
    done = {row["unit"]: row.get("descriptors") for row in ok if row["what"] == "exactness"}
    skipped = {row["unit"] for row in rows if row["status"] == "skipped"}
    return all(
        name in skipped if descriptors is None else done.get(name) == descriptors
        for name, descriptors in needed().items()
    )


@cache
def needed() -> dict[str, str | None]:
    """Return the names of all units of `exactness` on a GPU, each with a hash of what the host describes for it now.

    The hash is None if the host makes no descriptors.
    """
    gpu = Gpu.of("sm_90", 132).switched(host_descriptors=True)
    return {
        unit.name: None if unit.by_programs else exactness.described(unit.plans(gpu))
        for unit in exactness_units.units(ON_GPU)
    }


def slowdown(rows: Iterable[Row]) -> float:
    """Return the geometric mean of the device times with the switch on, each over that with it off. 1 without times."""
    times: dict[str, dict[bool, float]] = {}
    for row in rows:
        if row["what"] == "times" and row.get("device"):
            times.setdefault(row["unit"], {})[row["on"]] = row["device"]["median"]
    ratios = [log(each[True] / each[False]) for each in times.values() if len(each) == 2]
    return exp(fmean(ratios)) if ratios else 1.0


def committed(folder: Path = results.RESULTS) -> list[Results]:
    """Return the committed records of this part: <gpu>-switches.json, or with a number behind it."""
    return [results.read(path) for path in sorted(folder.glob("*-switches*.json"))]


def decided(records: Iterable[Results]) -> dict[str, set[str]]:
    """Return, by the name of an architecture, the switches that its records together confirm, and that none refutes.

    A later record may have only what the ones before it lack. Rows of other kernels do not count.
    """
    now = kernel_identity.names()
    found: dict[str, list[Row]] = {}
    for record in records:
        rows = found.setdefault(record["architecture"], [])
        if "rehearsal" not in record and "sample" not in record:
            rows += [row for row in record["rows"] if row.get("kernels", {}).items() <= now.items()]
    return {
        name: confirmed(together, now) - refuted(together, now)
        for name, rows in found.items()
        for together in [{"architecture": name, "rows": rows}]
    }
