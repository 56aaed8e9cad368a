"""Combines the rows that several processes measured of the same code into one, with the spread between processes.

One process may be lucky with its memory addresses or its clocks. So what is published is from several, and says so.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]
# The times of a row, and the fields that follow from them or from the processes' own measurements.
TIMES = ("device_us", "warm_us", "wall_us", "host_us")
RATES = ("tflops", "gbps", "roof", "clock_mhz", "watts")
PEAKS = ("extra_bytes", "peak")
# The fields of a row and of its run's environment that must be equal for rows to be of the same code and method.
FIELDS = ("status", "how", "cold", "image", "weight", "kernels", "tile")
VERSIONS = ("torch", "triton", "cuda", "cudnn", "driver")
# Contenders that have none of this repository's code.
FOREIGN = ("torch", "torch-nchw", "compile", "flag_gems")


def code_of(row: Row, environment: dict[str, Any]) -> tuple[Any, ...]:
    """Return what decides which code a row measured, and how: rows for which this is equal can be combined.

    A contender with code of this repository also needs the same commit and package: what the host does takes time too,
    even if the kernels are the same.
    """
    ours = () if row["contender"] in FOREIGN else (row.get("commit"), environment.get("package"))
    return *(row.get(name) for name in FIELDS), *(environment.get(name) for name in VERSIONS), *ours


def combined(rows: Sequence[Row]) -> Row:
    """Return one row for the rows of several processes, which are of the same code.

    The median of a time is the median of the processes' medians. Its p20 is the smallest of theirs, its p80 the
    largest, and `runs` counts all. Rates are the medians of theirs, peaks of memory the largest. All other fields are
    those of the last row. Two fields are new:

        `processes`  How many processes there are.
        `between`    For each time, the largest median over the smallest: 1.02 says that processes differ by 2 %.
    """
    last, count = rows[-1], sum(row.get("processes", 1) for row in rows)
    if len(rows) == 1:
        return last
    found, between = dict(last), {}
    for name in TIMES:
        times = [row[name] for row in rows if row.get(name)]
        if times:
            found[name] = of_processes(times)
            known = [row["between"][name] for row in rows if name in row.get("between", {})]
            between[name] = round(max([*known, ratio([each["median"] for each in times])]), 4)
    for name in RATES:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found[name] = float(f"{median(values):.4g}")
    for name in PEAKS:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found[name] = max(values)
    return found | {"processes": count, "between": between}


def of_processes(times: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the spread of a time over all runs of several processes (`combined`), from the spread in each."""
    return {
        "median": round(median(each["median"] for each in times), 3),
        "p20": min(each["p20"] for each in times),
        "p80": max(each["p80"] for each in times),
        "runs": sum(each["runs"] for each in times),
    }


def ratio(values: Sequence[float]) -> float:
    """Return the largest value over the smallest."""
    return max(values) / min(values)
