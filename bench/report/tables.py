"""A run in Markdown: the machine, how fast each layer is beside torch, what was not timed, and every time."""

from collections.abc import Sequence
from typing import Any

from bench import table
from bench.report import compare
from bench.report.compare import CLOCKS, Clock
from bench.report.summary import Comparison
from bench.results import Results, Row
from bench.run.contenders import PASSES

# What a ratio says, by `Comparison.as_time`.
SAYS = {
    False: "A ratio says how many times as fast as torch a contender is, by medians: above 1 it is faster.",
    True: "A ratio says how many times as long as torch a contender takes, by medians: above 1 it is slower.",
}
NOTE = """\
torch has no locally connected layer, so these are compared with unfold + einsum. "device" is a replayed CUDA graph with
a cold L2 cache. "eager" is a call as a user makes it. In brackets stands the share of the roofline: the time that the
ceilings allow over the time taken. The ceilings count each operand moved once, and products in the padding too. The
time of a step is that of its three operators. A locally connected layer also reads its patches through the L2 cache. It
has no share on a CPU."""
NAMES = {compare.BASELINE: "torch", compare.SUBSTITUTE: "unfold + einsum"}


def report(run: Results) -> str:
    """Return the machine, one table for each contender, dtype and yardstick, and what was not timed."""
    parts = ["# Throughput", describe(run), NOTE]
    for dtype, contender, baseline in compared(run["rows"]):
        parts += [f"## {contender} over {NAMES[baseline]}, {dtype}"]
        if comparison := Comparison.of(run["rows"], contender, dtype, baseline):
            parts += [SAYS[comparison.as_time], families(comparison), layers(comparison)]
        parts += [untimed(compare.judged_by(baseline, run["rows"]), contender, dtype)]
    return "\n\n".join(part for part in parts if part) + "\n"


def compared(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return each dtype, contender and yardstick that has rows, without the yardsticks themselves and torch."""
    found = dict.fromkeys((row["dtype"], row["contender"], compare.yardstick(row["family"])) for row in rows)
    return [each for each in found if each[1] not in (compare.BASELINE, each[2])]


COPIES = {"copy": "GB/s in a copy", "l2": "GB/s in copies within the L2 cache"}


def describe(run: Results) -> str:
    """Return the machine, the versions and the ceilings, and a warning if the run is a sample or a rehearsal."""
    lines = made_on(run)
    reached = [f"{value} {unit}" for value, unit in ceilings(run)]
    lines.append(f"Ceilings{' of the last of these runs' * (len(lines) > 1)}: {', '.join(reached)}.")
    if "sample" in run:
        lines.insert(0, f"**A sample: {run['sample']}**\n")
    elif "rehearsal" in run:
        lines.insert(0, f"**A rehearsal: {run['rehearsal']}. These are no results.**\n")
    if not run.get("complete", True):
        lines.append(f"Not complete: {run['stopped']}.")
    return "\n".join(lines)


def made_on(run: Results) -> list[str]:
    """Return one line for each run that was merged into this one, or for this one."""
    return [machine(about) for about in run.get("runs", [run["environment"]])]


def ceilings(run: Results) -> list[tuple[str, str]]:
    """Return the value of each ceiling as text, with its unit and how it was measured."""
    return [
        (significant(value), COPIES.get(name, f"TFLOP/s in a {name} matrix product"))
        for name, value in run["ceilings"].items()
    ]


def machine(about: dict[str, Any]) -> str:
    """Return one line on the machine, versions, commit and date of a run."""
    if about["gpu"]:
        where = f"{about['gpu']}, driver {about['driver']}"
    else:
        where = f"{about['cpu']}, {about['threads']} threads"
        if load := about.get("load"):
            where += f", load average {load['start']} at the start and {load.get('end')} at the end"
    commit = f"commit {about['commit']}{' with changes' if about['changed'] else ''}"
    return f"{where}; {versions(about, 'torch', 'triton', 'cuda', 'cudnn', 'python')}; {commit}; {about['date']}."


def versions(about: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {about[name]}" for name in names if about[name])


def columns(comparison: Comparison) -> list[tuple[str, Clock]]:
    """Return the columns of a table of ratios: each pass by each clock that it was timed by."""
    return [(of, clock) for of in comparison.passes for clock in CLOCKS if comparison.chosen(clock, of)]


def families(comparison: Comparison) -> str:
    """Return the table of geometric means by family, pass and clock, with the share of the roofline."""
    shown = columns(comparison)
    body = []
    for family in grouped(comparison):
        cells = [
            cell(comparison.mean(clock, of, family), mean_roof(comparison, clock, of, family), comparison)
            for of, clock in shown
        ]
        body.append([counted(comparison, family), *cells])
    return table.markdown(["geometric means", *map(" ".join, shown)], body)


def grouped(comparison: Comparison) -> list[str | None]:
    """Return the families, and None, which stands for all of them, where there are several."""
    return [*comparison.families, *([None] if len(comparison.families) > 1 else [])]


def counted(comparison: Comparison, family: str | None) -> str:
    """Return the name of a family, or "all", with the number of its layers."""
    return f"{family or 'all'} ({len(comparison.layers(family))})"


def mean_roof(comparison: Comparison, clock: Clock, of: str, family: str | None) -> float | None:
    """Return the geometric mean of the contender's shares of the roofline, for the column of this clock and pass.

    Return None for the eager column if the pass also has a device column, which shows the share instead.
    """
    if clock == "eager" and comparison.chosen("device", of):
        return None
    return comparison.roof(comparison.contender, of, family, clock)


def layers(comparison: Comparison) -> str:
    """Return the table of ratios with a row for each layer, and a column for each pass and clock.

    A ratio is shown as `Comparison.shown` says. The share of the roofline follows in brackets. A pass without a time
    has its status instead. Layers that were skipped in all passes are left out.
    """
    mine = compare.of(comparison.rows, comparison.contender, comparison.dtype)
    shown = columns(comparison)
    body = []
    for layer, family in {row["layer"]: row["family"] for row in mine.values()}.items():
        if any((row := mine.get((layer, of))) and row["status"] != "skipped" for of in PASSES):
            body.append([layer, *(outcome(comparison, mine.get((layer, of)), clock) for of, clock in shown), family])
    return table.markdown(["layer", *map(" ".join, shown), "family"], body)


def outcome(comparison: Comparison, row: Row | None, clock: Clock) -> str | None:
    """Return the cell of one row by one clock: its ratio and share of the roofline. None if there is no row.

    If the row was not timed, the cell is its status.
    """
    if row is None:
        return None
    if row["status"] != "ok":
        return str(row["status"])
    with_roof = clock == "device" or not comparison.chosen("device", row["pass"])
    ratio = comparison.ratios[clock].get((row["layer"], row["pass"]))
    return cell(ratio, row["roof"] if with_roof else None, comparison)


def cell(ratio: float | None, roof: float | None = None, comparison: Comparison | None = None) -> str | None:
    """Return a ratio and a share of the roofline as in "1.05 (62 %)".

    The ratio of a `comparison` becomes what this comparison shows.
    """
    parts = []
    if ratio is not None:
        parts.append(number(comparison.shown(ratio) if comparison else ratio))
    if roof is not None:
        parts.append(f"({percent(roof)})")
    return " ".join(parts) or None


def number(ratio: float) -> str:
    """Return a ratio as all tables and pictures show it: 0.0041, 0.030, 0.41, 5.50, 42.1, 244."""
    if ratio < 0.1:
        return significant(ratio, 2)
    return f"{ratio:.2f}" if ratio < 9.995 else significant(ratio, 3) if ratio < 999.5 else f"{ratio:.0f}"


def percent(share: float) -> str:
    """Return a share in percent: as a whole number, or with two digits if it is below ten: 84 %, 9.0 %, 0.50 %."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{significant(100 * share, 2)} %"


def significant(value: float, digits: int = 4) -> str:
    """Return a number with this many significant digits, zeros at the end included."""
    return f"{value:#.{digits}g}".removesuffix(".")


def untimed(rows: Sequence[Row], contender: str, dtype: str) -> str:
    """Return a list of the reasons why rows have no time, each with its number of rows and up to three of them."""
    reasons: dict[str, list[str]] = {}
    for (layer, of), row in compare.of(rows, contender, dtype).items():
        if row["status"] != "ok":
            reasons.setdefault(f"{row['status']}: {row['reason']}", []).append(f"{layer} {of}")
    return "\n".join(
        f"- {len(places)} {reason} ({', '.join(places[:3])}{', ...' if len(places) > 3 else ''})"
        for reason, places in reasons.items()
    )


def details(run: Results) -> str:
    """Return the table of every time and of the memory.

    Times are medians: on the device, eager and of the host. The first two have their 20th and 80th percentile. "extra"
    is the peak of memory beside operands and results. "peak" is the peak of all memory as a multiple of them.
    """
    header = [
        "layer",
        "pass",
        "dtype",
        "contender",
        "device us (p20-p80)",
        "eager us (p20-p80)",
        "host us",
        "extra MB",
        "peak",
        "TFLOP/s",
    ]
    body = []
    for row in run["rows"]:
        if row["status"] == "ok":
            extra = None if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e6:.1f}"
            peak = None if row.get("peak") is None else significant(row["peak"])
            device, eager = (microseconds(row[name], with_spread=True) for name in ("device_us", "wall_us"))
            if device and row["how"] != "graph":
                device += " (not replayed)"
            tiles = ", ".join(dict.fromkeys(row.get("tile", {}).values()))
            about = [row["layer"], row["pass"], row["dtype"], row["contender"], device]
            host, reached = microseconds(row["host_us"]), significant(row["tflops"])
            body.append([*about, eager, host, extra, peak, reached, tiles])
    return f"## Every time\n\n{table.markdown([*header, 'tile'], body)}\n"


def microseconds(spread: dict[str, float] | None, with_spread: bool = False) -> str | None:
    if spread is None:
        return None
    return f"{spread['median']:.1f}" + (f" ({spread['p20']:.1f}-{spread['p80']:.1f})" if with_spread else "")
