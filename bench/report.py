"""Tables and pictures of results, what changed since older ones, and the README's section on performance."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import compare, results, table
from bench.contenders import PASSES
from bench.results import Results, Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILES", help="what pytest bench or bench device wrote")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the table and the pictures there")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="say what changed, and fail if it got slower")
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="the share by which something must slow down to fail (0.05)"
    )
    parser.add_argument(
        "--publish", action="store_true", help="add the results to bench/results, and write the README's section"
    )


def main(args: argparse.Namespace) -> int:
    """Print the table of FILES, taken together. Returns the exit status."""
    runs = [results.load(path) for path in args.files]
    together = results.merged(runs)
    print(report(together))
    if args.out:
        draw(runs, args.out, "report")
        results.write(args.out / "report.md", report(together))
    if args.publish:
        from bench import publish

        for path in publish.publish(together):
            print(path)
    return against(together, results.load(args.against), args.threshold) if args.against else 0


def report(run: Results) -> str:
    """All of a run in Markdown: what it ran on, one table for each contender and dtype, and what was not timed."""
    rows: Sequence[Row] = run["rows"]
    parts = ["# Throughput", describe(run)]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for contender in dict.fromkeys(row["contender"] for row in rows):
            if contender == compare.BASELINE or not any(compare.of(rows, contender, dtype)):
                continue
            parts += [f"## {contender} over torch, {dtype}"]
            if compare.speedups(rows, contender, dtype):
                parts += [families(rows, contender, dtype), layers(rows, contender, dtype)]
            parts += [untimed(rows, contender, dtype)]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe(run: Results) -> str:
    """The machine, the versions and the ceilings, and whether any of this may be believed."""
    about = run["environment"]
    machine = (
        f"{about['gpu']}, driver {about['driver']}" if about["gpu"] else f"{about['cpu']}, {about['threads']} threads"
    )
    versions = [f"{name} {about[name]}" for name in ("torch", "triton", "cuda", "cudnn", "python") if about[name]]
    commit = f"commit {about['commit']}{' with changes' if about['changed'] else ''}"
    ceilings = [
        f"{value:g} {'GB/s in a copy' if name == 'copy' else f'TFLOP/s in a {name} matrix product'}"
        for name, value in run["ceilings"].items()
    ]
    lines = [f"{machine}; {', '.join(versions)}; {commit}; {about['date']}.", f"Ceilings: {', '.join(ceilings)}."]
    if "sample" in run:
        lines.insert(0, f"**A sample: {run['sample']}**")
    if "rehearsal" in run:
        lines.insert(0, f"**A rehearsal: {run['rehearsal']}. These are no results.**")
    if not run.get("complete", True):
        lines.append("Not complete: the time was up.")
    return "\n".join(lines)


def families(rows: Sequence[Row], contender: str, dtype: str) -> str:
    """Geometric means: how many times as fast as torch, and the fraction of the roof, by family and pass."""
    ratios = compare.speedups(rows, contender, dtype)
    roofs = {place: row["roof"] for place, row in compare.of(rows, contender, dtype).items() if place in ratios}
    family_of = {row["layer"]: row["family"] for row in rows}
    by_pass = {of: (compare.by_family(ratios, family_of, of), compare.by_family(roofs, family_of, of)) for of in PASSES}
    names = list(dict.fromkeys(name for ratio, _ in by_pass.values() for name in ratio))
    body = [[name, *(cell(*(kind.get(name, (None,))[0] for kind in by_pass[of])) for of in PASSES)] for name in names]
    overall = [
        [compare.geometric_mean(kind[p] for p in kind if p[1] == of) for kind in (ratios, roofs)] for of in PASSES
    ]
    body.append([f"all {len({layer for layer, _ in ratios})} layers", *(cell(*pair) for pair in overall)])
    return table.markdown(["geometric means", *PASSES], body)


def layers(rows: Sequence[Row], contender: str, dtype: str) -> str:
    """Every layer: how many times as fast as torch, and the fraction of the roof, of each pass."""
    ratios, mine = compare.speedups(rows, contender, dtype), compare.of(rows, contender, dtype)
    body = []
    for layer, family in {row["layer"]: row["family"] for row in mine.values()}.items():
        cells = []
        for of in PASSES:
            row = mine.get((layer, of))
            timed = row is not None and row["status"] == "ok"
            cells.append(
                cell(ratios.get((layer, of)), row["roof"] if row and timed else None)
                if timed or not row
                else row["status"]
            )
        if any(row["status"] != "skipped" for (name, _), row in mine.items() if name == layer):
            body.append([layer, *cells, family])
    return table.markdown(["layer: times as fast (share of the roof)", *PASSES, "family"], body)


def cell(ratio: float | None, roof: float | None) -> str | None:
    """As 1.05 (62 %)."""
    if roof is None:
        return None
    share = f"({100 * roof:.0f} %)" if roof >= 0.1 else f"({100 * roof:.2g} %)"
    return share if ratio is None else f"{ratio:.2f} {share}"


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


def draw(runs: Sequence[Results], folder: Path, stem: str) -> list[Path]:
    """The pictures of what was timed in `runs`, taken together; over commits where there are several."""
    from bench import pictures

    folder.mkdir(parents=True, exist_ok=True)
    together = results.merged(runs)
    rows = together["rows"]
    drawn = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        timed = list(dict.fromkeys(r["contender"] for r in rows if (r["dtype"], r["status"]) == (dtype, "ok")))
        for contender in timed:
            if compare.speedups(rows, contender, dtype) and contender != compare.BASELINE:
                drawn.append(
                    pictures.speedup_bars(together, contender, dtype, folder / f"{stem}-{contender}-{dtype}.png")
                )
        if timed:
            drawn.append(pictures.roofline(together, timed, dtype, folder / f"{stem}-roofline-{dtype}.png"))
        if timed and len(runs) > 1:
            ordered = sorted(runs, key=lambda run: run["environment"]["date"])
            drawn.append(pictures.over_commits(ordered, timed, dtype, folder / f"{stem}-commits-{dtype}.png"))
    return drawn


def against(new: Results, old: Results, threshold: float) -> int:
    """Print what changed beyond the spread. 1 if anything but torch's own got slower by more than `threshold`."""
    found = compare.changes(new["rows"], old["rows"])
    shared = {results.key(row) for row in new["rows"]} & {results.key(row) for row in old["rows"]}
    print(f"Of {len(shared)} rows in both, {len(found)} changed beyond their spread:")
    for change in found:
        what = "lost" if change.factor is None else f"{change.factor:.2f}x the time"
        print(f"  {' '.join(change.about)}: {what} ({change.what})")
    worse = [change for change in found if change.fails(threshold) and change.about[2] not in ("torch", "torch-nchw")]
    print(f"{len(worse)} of ours got slower by more than {100 * threshold:g} %, or lost their result.")
    return 1 if worse or not shared else 0
