"""Combines the rows that several processes measured of the same code into one, with the spread between processes.

One process may be lucky with its memory addresses or its clocks. So what is published is from several, and says so.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]
# The times of a row, and the fields that follow from them or from the processes' own measurements.
TIMES = ("device_us", "warm_us", "wall_us", "host_us")
RATES = ("tflops", "gbps", "roof", "clock_mhz", "watts")
LARGEST = ("extra_bytes", "peak", "error_rms", "error_max")
# The fields of a row and of its run's environment that must be equal for rows to be of the same code and method. The
# host counts on a GPU too, because eager times depend on it.
FIELDS = ("status", "how", "cold", "image", "weight", "kernels", "tile")
VERSIONS = ("torch", "triton", "cuda", "cudnn", "driver", "python")
HOST = ("cpu", "threads")
# The fields that say what a row measures.
PLACE = ("layer", "pass", "contender", "dtype")
# Contenders that have none of this repository's code.
FOREIGN = ("torch", "torch-nchw", "compile", "flag_gems")


def code_of(row: Row, environment: dict[str, Any]) -> tuple[Any, ...]:
    """Return what decides which code a row measured, and how: rows for which this is equal can be combined.

    A contender with code of this repository also needs the same commit and package: what the host does takes time too,
    even if the kernels are the same.
    """
    ours = () if row["contender"] in FOREIGN else (row.get("commit"), environment.get("package"))
    return *(row.get(name) for name in FIELDS), *(environment.get(name) for name in VERSIONS + HOST), *ours


def same_code(rows: Sequence[tuple[int, Row]], runs: Sequence[dict[str, Any]]) -> list[tuple[int, Row]]:
    """Return those rows of one key that count: the last one, and rows of the same code from other processes before it.

    Each row comes with the index of its run. A row without a time counts only if no earlier row with a time is of the
    same kernels.
    """
    last = rows[0]
    for row in rows[1:]:
        old, new = last[1], row[1]
        other = new.get("kernels", old.get("kernels")) != old.get("kernels")
        if new["status"] == "ok" or old["status"] != "ok" or other:
            last = row
    if last[1]["status"] != "ok":
        return [last]

    def code(row: tuple[int, Row]) -> tuple[Any, ...]:
        return code_of(row[1], runs[row[0]]["environment"])

    of_process = {(i, row.get("process")): (i, row) for i, row in rows if code((i, row)) == code(last)}
    return list(of_process.values())


def with_run(row: Row, run: dict[str, Any]) -> Row:
    """Return a row that says in which run, and in which of its processes, it was measured."""
    process = f" {row['process']}" if "process" in row else ""
    return row | {"measured": row.get("measured", [f"{run['environment']['date']}{process}"])}


def taking_turns(rows: Sequence[list[tuple[int, Row]]]) -> list[list[tuple[int, Row]]]:
    """Return the rows of each key without those of other contenders from runs that did not time ours beside them.

    Ours are of the code that counts, so runs of older code are left out, too. If no run has both, all rows stay.
    """
    ours: dict[tuple[str, ...], set[int]] = {}
    for each in rows:
        layer, of, contender, dtype = (each[0][1][name] for name in PLACE)
        if contender not in FOREIGN:
            ours.setdefault((layer, of, dtype), set()).update(i for i, row in each if row["status"] == "ok")
    found = []
    for each in rows:
        layer, of, contender, dtype = (each[0][1][name] for name in PLACE)
        beside = ours.get((layer, of, dtype), set()) if contender in FOREIGN else set()
        found.append([(i, row) for i, row in each if i in beside] or each)
    return found


def once(environments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the environments without repetitions, because a file may be there twice."""
    found: list[dict[str, Any]] = []
    for about in environments:
        found += [about] * (about not in found)
    return found


def combined(rows: Sequence[Row]) -> Row:
    """Return one row for the rows of several processes, which are of the same code.

    The median of a time is the median of the processes' medians. Its p20 is the smallest of theirs, its p80 the
    largest, and `runs` counts all. Rates are the medians of theirs, peaks of memory and errors the largest. All other
    fields are those of the last row. These fields are new:

        `processes`  How many processes there are. A process whose row is there twice counts once.
        `each`       For each process its number, or None if its rows have none, and its medians in the order of TIMES.
        `between`    For each time, the largest median over the smallest: 1.02 says that processes differ by 2 %.

    If the rows have `measured` (`bench.results.merged`), so has the result, with all that is in theirs.
    """
    runs = list(dict.fromkeys(name for row in rows for name in row.get("measured", ())))
    rows = different(rows)
    last = rows[-1] | {"measured": runs} if runs else rows[-1]
    if len(rows) == 1:
        return last
    each = list(dict.fromkeys(one for row in rows for one in origins(row)))
    found, between = dict(last), {}
    for n, name in enumerate(TIMES, 1):
        known = [one[n] for one in each if one[n] is not None]
        if known:
            found[name] = of_processes([row[name] for row in rows if row.get(name)], known)
            between[name] = round(max(known) / min(known), 4)
    for name in RATES:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found[name] = float(f"{median(values):.4g}")
    for name in LARGEST:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found[name] = max(values)
    return found | {"processes": len(each), "each": [list(one) for one in each], "between": between}


def origins(row: Row) -> list[tuple[Any, ...]]:
    """Return what `combined` keeps in `each`, for each process that a row is from."""
    own = [row.get("process"), *(row[name]["median"] if row.get(name) else None for name in TIMES)]
    return [tuple(one) for one in row.get("each", [own])]


def different(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those whose processes are all in another row: the same file may be there twice.

    Times have nanoseconds, so no two processes have the same number and the same medians of all times.
    """
    kept: list[Row] = []
    for row in rows:
        own = set(origins(row))
        if row["status"] == "ok" and any(own <= set(origins(other)) for other in kept):
            continue
        kept = [other for other in kept if row["status"] != "ok" or not set(origins(other)) <= own]
        kept.append(row)
    return kept


def of_processes(times: Sequence[dict[str, float]], medians: Sequence[float]) -> dict[str, float]:
    """Return the spread of a time over all runs of several processes (`combined`), from the spread in each row.

    `medians` are those of each process.
    """
    return {
        "median": round(median(medians), 3),
        "p20": min(each["p20"] for each in times),
        "p80": max(each["p80"] for each in times),
        "runs": sum(each["runs"] for each in times),
    }
