"""A run in Markdown: what it ran on, how many times as fast as torch, what was not timed, and every time."""

from collections.abc import Sequence
from typing import Any

from bench import table
from bench.report import compare
from bench.results import Results, Row
from bench.run.contenders import PASSES

NOTE = """\
Times as fast as torch, or, in locally connected layers, which torch does not have, as unfold + einsum: medians on the
device, or eager where there is none. In brackets the share of the roof: the time at the ceilings, each operand moved
once and products in the padding counted, over the time taken; for a step, the sum of its three operators. A locally
connected layer also has its patches to read through the L2 cache."""
NAMES = {compare.BASELINE: "torch", compare.SUBSTITUTE: "unfold + einsum"}


def report(run: Results) -> str:
    """What it ran on, one table for each contender and dtype beside each yardstick, and what was not timed."""
    parts = ["# Throughput", describe(run), NOTE]
    for dtype, contender, baseline in compared(run["rows"]):
        rows = compare.judged_by(baseline, run["rows"])
        parts += [f"## {contender} over {NAMES[baseline]}, {dtype}"]
        if compare.speedups(rows, contender, dtype, baseline):
            parts += [families(rows, contender, dtype, baseline), layers(rows, contender, dtype, baseline)]
        parts += [untimed(rows, contender, dtype)]
    return "\n\n".join(part for part in parts if part) + "\n"


def compared(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Each dtype, contender and yardstick that has rows, yardsticks and torch itself left out."""
    found = dict.fromkeys((row["dtype"], row["contender"], compare.yardstick(row["family"])) for row in rows)
    return [each for each in found if each[1] not in (compare.BASELINE, each[2])]


COPIES = {"copy": "GB/s in a copy", "l2": "GB/s in copies within the L2 cache"}


def describe(run: Results) -> str:
    """The machine, the versions and the ceilings, and whether any of this may be believed."""
    lines = [machine(about) for about in run.get("runs", [run["environment"]])]
    ceilings = [
        f"{value:g} {COPIES.get(name, f'TFLOP/s in a {name} matrix product')}"
        for name, value in run["ceilings"].items()
    ]
    lines.append(f"Ceilings{' of the last of these runs' * (len(lines) > 1)}: {', '.join(ceilings)}.")
    if "sample" in run:
        lines.insert(0, f"**A sample: {run['sample']}**\n")
    elif "rehearsal" in run:
        lines.insert(0, f"**A rehearsal: {run['rehearsal']}. These are no results.**\n")
    if not run.get("complete", True):
        lines.append(f"Not complete: {run['stopped']}.")
    return "\n".join(lines)


def machine(about: dict[str, Any]) -> str:
    """One line on where and with what a run was made."""
    where = (
        f"{about['gpu']}, driver {about['driver']}" if about["gpu"] else f"{about['cpu']}, {about['threads']} threads"
    )
    versions = [f"{name} {about[name]}" for name in ("torch", "triton", "cuda", "cudnn", "python") if about[name]]
    commit = f"commit {about['commit']}{' with changes' if about['changed'] else ''}"
    return f"{where}; {', '.join(versions)}; {commit}; {about['date']}."


def families(rows: Sequence[Row], contender: str, dtype: str, baseline: str = compare.BASELINE) -> str:
    """Geometric means: how many times as fast as the yardstick, and the share of the roof, by family and pass."""
    ratios = compare.speedups(rows, contender, dtype, baseline)
    roofs = {place: row["roof"] for place, row in compare.of(rows, contender, dtype).items() if place in ratios}
    family_of = {row["layer"]: row["family"] for row in rows}
    body: dict[str, list[str | None]] = {}
    for i, of in enumerate(PASSES):
        fast, high = (compare.by_family(values, family_of, of) for values in (ratios, roofs))
        for family, (ratio, count) in fast.items():
            cells = body.setdefault(f"{family} ({count})", [None] * len(PASSES))
            cells[i] = cell(ratio, high[family][0])
    overall = [
        cell(
            *(compare.geometric_mean(values[place] for place in values if place[1] == of) for values in (ratios, roofs))
        )
        for of in PASSES
    ]
    lines = [[name, *cells] for name, cells in body.items()]
    lines.append([f"all {len({layer for layer, _ in ratios})}", *overall])
    return table.markdown(["geometric means", *PASSES], lines)


def layers(rows: Sequence[Row], contender: str, dtype: str, baseline: str = compare.BASELINE) -> str:
    """Every layer: how many times as fast as the yardstick, and the share of the roof, of each pass."""
    ratios, mine = compare.speedups(rows, contender, dtype, baseline), compare.of(rows, contender, dtype)
    body = []
    for layer, family in {row["layer"]: row["family"] for row in mine.values()}.items():
        found = [mine.get((layer, of)) for of in PASSES]
        if any(row and row["status"] != "skipped" for row in found):
            cells = [outcome(row, ratios.get((layer, of))) for of, row in zip(PASSES, found, strict=True)]
            body.append([layer, *cells, family])
    return table.markdown(["layer", *PASSES, "family"], body)


def outcome(row: Row | None, ratio: float | None) -> str | None:
    """What a table says of one row: its speed, or why there is none."""
    if row is None:
        return None
    status: str = row["status"]
    return cell(ratio, row["roof"]) if status == "ok" else status


def cell(ratio: float | None, roof: float | None) -> str | None:
    """As 1.05 (62 %), with two digits at least of what is small."""
    if roof is None:
        return None
    share = f"({100 * roof:.0f} %)" if roof >= 0.1 else f"({100 * roof:.2g} %)"
    if ratio is None:
        return share
    return f"{ratio:.2f} {share}" if ratio >= 0.1 else f"{ratio:.2g} {share}"


def untimed(rows: Sequence[Row], contender: str, dtype: str) -> str:
    """What has no time, and why: each reason once."""
    reasons: dict[str, list[str]] = {}
    for (layer, of), row in compare.of(rows, contender, dtype).items():
        if row["status"] != "ok":
            reasons.setdefault(f"{row['status']}: {row['reason']}", []).append(f"{layer} {of}")
    return "\n".join(
        f"- {len(places)} {reason} ({', '.join(places[:3])}{', ...' if len(places) > 3 else ''})"
        for reason, places in reasons.items()
    )


def details(run: Results) -> str:
    """Every time: on the device, eager, and what the host needs; memory beside operands and results, and all of it as a
    multiple of these; the tile.
    """
    header = [
        "layer",
        "pass",
        "dtype",
        "contender",
        "device us (p20-p80)",
        "eager us",
        "host us",
        "extra MB",
        "peak",
        "TFLOP/s",
    ]
    body = []
    for row in run["rows"]:
        if row["status"] == "ok":
            extra = None if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e6:.1f}"
            spreads = [row["device_us"], row["wall_us"], row["host_us"]]
            device = microseconds(row["device_us"], with_spread=True)
            if device and row["how"] != "graph":
                device += " (not replayed)"
            tiles = ", ".join(dict.fromkeys(row.get("tile", {}).values()))
            about = [row["layer"], row["pass"], row["dtype"], row["contender"], device]
            body.append([*about, *map(microseconds, spreads[1:]), extra, row.get("peak"), row["tflops"], tiles])
    return f"## Every time\n\n{table.markdown([*header, 'tile'], body)}\n"


def microseconds(spread: dict[str, float] | None, with_spread: bool = False) -> str | None:
    if spread is None:
        return None
    return f"{spread['median']:.1f}" + (f" ({spread['p20']:.1f}-{spread['p80']:.1f})" if with_spread else "")
