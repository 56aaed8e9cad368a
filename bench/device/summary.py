"""The summary of a call of `bench device`, of at most 60 lines."""

import argparse
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

from bench import results
from bench.device import evidence as switch_evidence
from bench.device import switches, timed, training, tuning
from bench.device.contests import VARYING
from bench.device.machine import Machine
from bench.device.recorder import LATER
from bench.results import Results, Row
from bench.table import markdown
from bench.train import table as training_table
from bench.train.curves import agreements

if TYPE_CHECKING:
    from bench.device.call import Done

# The most lines of the summary, of what is wrong, of ratios, and of training steps.
LINES, WRONG, RATIOS, STEPS = 60, 8, 11, 4
# The length of a line about something wrong.
WIDTH = 160
Header = ["family", "passes", "device", "eager", "host, torch", "host, ours"]


def text(
    args: argparse.Namespace, machine: Machine, now: dict[str, Any], done: "Sequence[Done]", seconds: float
) -> str:
    """Return the summary as Markdown."""
    records = {path.name: results.read(path) for path in sorted(args.out.glob("*.json"))}
    gpu = now["gpu"] or "a CPU"
    kind = f" This is a rehearsal, {machine.rehearsal}: no number below was measured." if machine.rehearsal else ""
    lines = [f"# {seconds:.0f} seconds on {gpu}, {now['date'][:10]}, commit {now['commit']}", ""]
    lines += [f"The exit status of a slice is 1 if something in it is wrong or failed.{kind}", ""]
    lines += of_slices(done)
    lines += section("Wrong or failed", wrong(records.values()) or ["Nothing."])
    times = records.get(timed.FILE)
    lines += section("Speed beside torch (1.2: ours takes 1 / 1.2 of the time)", ratios(times["rows"]) if times else [])
    lines += section(
        "Training steps, images a second", trained(records[training.FILE]) if training.FILE in records else []
    )
    lines += section("Ceilings", [ceilings(times)] if times else [])
    # What to do next is never cut off.
    then = section("Next", commands(args, now, done, records, rehearsal=machine.rehearsal is not None))
    return "\n".join([*lines[: LINES - len(then)], *then]) + "\n"


def section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def of_slices(done: "Iterable[Done]") -> list[str]:
    """Return the table of the slices: how many units were current, done in this call, and remain."""
    header = ["slice", "current", "done", "remain", "seconds", "status"]
    rows = []
    for each in done:
        before, after = (sum(unit.missing > 0 for unit in units) for units in (each.before, each.after))
        current = len(each.before) - before
        rows.append([each.slice.name, current, before - after, after, f"{each.seconds:.0f}", each.status])
    return markdown(header, rows).splitlines()


def wrong(records: Iterable[Results]) -> list[str]:
    """Return a line for each row that is wrong or failed, for the first few, and for what stopped a slice."""
    found = [line for record in records for line in (*lost(record), *map(described, filter(is_bad, record["rows"])))]
    more = [f"- and {len(found) - WRONG} more, in the files"] if len(found) > WRONG else []
    return [*found[:WRONG], *more]


def trained(record: Results) -> list[str]:
    """Return a line for the last few models and ways that were timed, and for each pair of loss curves."""
    lines = [
        f"- {model} {how}: torch {theirs or 'none'}, triton {mine or 'none'}"
        for model, how, _, theirs, mine, *_ in training_table.speed(record["rows"])
    ]
    curves = [
        f"- loss curves of {each.model} ({each.curve}) {'agree' if each.agree else 'DO NOT AGREE'}"
        for each in agreements(record["rows"])
    ]
    return [*lines[-STEPS:], *curves]


def is_bad(row: Row) -> bool:
    return row.get("status") in ("wrong", "failed") or bool(row.get("refused"))


def described(row: Row) -> str:
    """Return a line about a row that is wrong or failed."""
    names = ("unit", "file", "layer", "pass", "contender", "model", "how", "implementation", "dtype", "seeds")
    what = " ".join(str(row[name]) for name in names if name in row)
    failures = [failure.get("what", failure.get("test", "")) for failure in row.get("failures", ())]
    reason = str(row.get("reason") or "; ".join([*map(str, failures), *row.get("refused", ())]))
    return f"- {row.get('status', '')} {what}: {' '.join(reason.split())}"[:WIDTH]


def lost(record: Results) -> list[str]:
    """Return a line for each slice that the GPU was lost in, or that something else stopped."""
    stopped = record.get("stopped")
    reasons = record.get("lost") or ([] if stopped in (None, LATER) else [stopped])
    return [f"- stopped {record.get('part')}: {each}"[:WIDTH] for each in reasons]


def ratios(rows: Sequence[Row]) -> list[str]:
    """Return a table of geometric means by family, in bfloat16: torch's time over ours, and both host times.

    Where torch has no layer, the reference stands for it.
    """
    found: dict[str, dict[tuple[str, str], dict[str, list[Row]]]] = {}
    dtype = "bfloat16" if any(row["dtype"] == "bfloat16" for row in rows) else "float32"
    for row in rows:
        if row["status"] == "ok" and row["dtype"] == dtype:
            places = found.setdefault(row["family"], {})
            places.setdefault((row["layer"], row["pass"]), {}).setdefault(row["contender"], []).append(row)
    table = []
    for family, places in found.items():
        baseline = "reference" if family in VARYING else "torch"
        both = [(each[baseline], each["triton"]) for each in places.values() if {baseline, "triton"} <= each.keys()]
        if both:
            host = [median_of("host_us", [row for pair in both for row in pair[side]]) for side in (0, 1)]
            table.append([family, len(both), mean(both, "device_us"), mean(both, "wall_us"), *host])
    return markdown(Header, table[:RATIOS]).splitlines() if table else []


def mean(both: Sequence[Any], field: str) -> str | None:
    """Return the geometric mean, over passes, of the baseline's time over ours."""
    found = [(median_of(field, one), median_of(field, other)) for one, other in both]
    known = [one / other for one, other in found if one and other]
    return f"{geometric_mean(known):.2f}" if known else None


def median_of(field: str, rows: Sequence[Row]) -> float | None:
    """Return the median over rows of a time's median."""
    found = [row[field]["median"] for row in rows if row.get(field)]
    return round(median(found), 1) if found else None


def ceilings(times: Results) -> str:
    """Return a line with the ceilings of a record."""
    units = {"copy": "GB/s", "read": "GB/s", "l2": "GB/s", "l2_read": "GB/s"}
    return ", ".join(f"{name} {value:g} {units.get(name, 'TFLOP/s')}" for name, value in times["ceilings"].items())


def unused(stem: str, folder: Path = results.RESULTS) -> str:
    """Return the path for a record in bench/results that does not exist yet: with a number behind it if need be."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    path = next(each for name in names if not (each := folder / f"{name}.json").exists())
    return path.relative_to(results.ROOT).as_posix() if path.is_relative_to(results.ROOT) else str(path)


def commands(
    args: argparse.Namespace, now: dict[str, Any], done: "Sequence[Done]", records: dict[str, Results], rehearsal: bool
) -> list[str]:
    """Return what to do next: what to commit and publish, and how to go on."""
    gpu, out = "-".join((now["gpu"] or "cpu").lower().split()), args.out
    found = []
    if not rehearsal:
        kept = [Path(name).stem for name in records if name not in (timed.FILE, tuning.FILE)]
        found += [f"- cp {out}/{name}.json {unused(f'{gpu}-{name}')}, and commit it" for name in kept]
        if timed.FILE in records:
            found.append(f"- python -m bench report --publish {out}/{timed.FILE}")
        if tuning.FILE in records:
            found.append(f"- python -m bench tune --take {out}/{tuning.FILE}")
    if switches.FILE in records and not rehearsal:
        confirmed = switch_evidence.confirmed(records[switches.FILE])
        found.append(f"- switches that this run confirms: {', '.join(sorted(confirmed)) or 'none'}")
    left = [each.slice.name for each in done if any(unit.missing for unit in each.after)]
    if left:
        found.append(f"- python -m bench device --out {out}, for what remains of {', '.join(left)}")
    return found or ["Nothing: all is current."]
