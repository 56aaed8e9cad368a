"""`python -m bench report`: tables and pictures of runs, what changed since older runs, and what is published."""

import argparse
from pathlib import Path

from bench import results
from bench.report import compare, tables
from bench.results import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILES",
        help="runs of one machine: JSON from pytest bench --benchmark-json, or layers.json from bench device",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.md and the pictures there")
    parser.add_argument(
        "--against", type=Path, metavar="OLD.json", help="say what changed since OLD; the exit status is 1 if for worse"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="with --against: the share by which to be slower to fail (0.05)"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="keep the results in bench/results and regenerate what is published there, in README.md and in "
        "docs/performance.md; without FILES only regenerate",
    )


def main(args: argparse.Namespace) -> int:
    """Print the table of FILES, taken together. Returns the exit status."""
    if not args.files:
        return regenerate(args)
    runs = [results.load(path) for path in args.files]
    together = results.merged(runs)
    old = results.load(args.against) if args.against else None
    report = tables.report(together)
    print(report)
    written = []
    if args.out:
        from bench.report import pictures  # only here, because it needs matplotlib

        results.write(args.out / "report.md", f"{report}\n{tables.details(together)}")
        written += [args.out / "report.md", *pictures.draw(runs, args.out, "report")]
    if args.publish:
        from bench.report import publish

        written += publish.publish(together)
    say(written)
    return against(together, old, args.threshold) if old else 0


def regenerate(args: argparse.Namespace) -> int:
    """Regenerate what is published, from the committed evidence alone. Returns the exit status."""
    if not args.publish or args.out or args.against:
        raise ValueError("FILES are missing: only --publish by itself works without, and regenerates what is published")
    from bench.report import publish

    say(publish.refresh())
    return 0


def say(written: list[Path]) -> None:
    """Print which files were written."""
    for path in written:
        print(f"written: {path}")


def against(new: Results, old: Results, threshold: float) -> int:
    """Print what changed. Returns 1 if one of our contenders got worse or if the runs share no rows, else 0."""
    for warning in compare.differences(new, old):
        print(f"Not the same: {warning}.")
    found = compare.changes(new["rows"], old["rows"])
    shared = {results.key(row) for row in new["rows"]} & {results.key(row) for row in old["rows"]}
    only_old = len({results.key(row) for row in old["rows"] if row["status"] == "ok"} - shared)
    print(f"Of {len(shared)} rows in both, {len(found)} changed by more than the spread within a run:")
    for change in found:
        print(f"  {change}")
    if only_old:
        print(f"{only_old} timed rows of the old results are not in the new ones.")
    worse = [change for change in found if change.fails(threshold)]
    print(
        f"{len(worse)} rows of ours got slower by more than {100 * threshold:g} %, also beside the yardstick, "
        "or were lost."
    )
    return 1 if worse or not shared else 0
