"""`python -m bench report`: tables and pictures of runs, what changed since older runs, and what is published."""

import argparse
from pathlib import Path

from bench import results, table
from bench.report import changes, every_time, tables, tuned
from bench.results import Results

DESCRIPTION = """\
Print a report of benchmark results: how many times as fast as torch each implementation is, for each family of layers
and for each layer, and what could not be timed and why. Layers whose weight varies, which torch does not have, stand
beside unfold + einsum. Tuned and held-out layers also have means of their own. A ratio of times that vary too much is
left out as noise. A rehearsal has times and no ratios, because its layers are scaled down. The report is Markdown,
except on a terminal, where tables are drawn if rich is installed.

Several files of the same code are taken for several processes, and the report says how much they differ.

No GPU is needed: the results are read from files. It takes seconds, and writes nothing without --out or --publish.

With --against, the exit status is 1 if one of this repository's implementations (triton, triton-nchw or reference) lost
a result, or got slower by more than --threshold and by more than the spread within a run. If the baseline (torch, or
unfold + einsum) got slower too, the machine did, and only the rest counts. The exit status is also 1 if no result is in
both. It is 2 if a file is no record of times, or if the runs are not of one machine. Otherwise it is 0."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="results of one machine, taken together: JSON from pytest bench (--save or --benchmark-json), or the "
        "times.json of bench device",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write DIR/report.md, which has every time, and pictures (needs matplotlib)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OLD.json",
        help="also print what changed since these results, and fail if one of ours got worse",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="with --against, fail if a time grew by more than this share (default: 0.05, which is 5 %%)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also add the results to bench/results, and regenerate the tables and pictures there, the README's "
        "section on performance and docs/performance.md; without any FILE, only regenerate (needs matplotlib)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the report of all files, taken together, and do what the options ask for. Return the exit status."""
    if not args.files:
        return regenerate(args)
    runs = [results.load(path) for path in args.files]
    together = tuned.completed(results.merged(runs))
    old = results.merged([results.load(args.against)]) if args.against else None
    table.show(tables.parts(together))
    written = []
    if args.out:
        from bench.report import pictures  # only here, because it needs matplotlib

        results.write(args.out / "report.md", f"{tables.report(together)}\n{every_time.details(together)}")
        written += [args.out / "report.md", *pictures.draw(runs, args.out, "report")]
    if args.publish:
        from bench.report import publish

        written += publish.publish(together)
    say(written)
    return against(together, old, args.threshold) if old else 0


def regenerate(args: argparse.Namespace) -> int:
    """Regenerate what is published, from the committed evidence alone. Return the exit status.

    Raise ValueError without --publish, and with --out or --against.
    """
    if not args.publish or args.out or args.against:
        raise ValueError("FILE is missing: only --publish works without it, and only by itself")
    from bench.report import publish

    say(publish.refresh())
    return 0


def say(written: list[Path]) -> None:
    """Print which files were written."""
    for path in written:
        print(f"written: {path}")


def against(new: Results, old: Results, threshold: float) -> int:
    """Print what changed since `old`. Return 1 if one of our contenders got worse or no row is in both, else 0."""
    for warning in changes.differences(new, old):
        print(f"Not the same: {warning}.")
    found = changes.changes(new["rows"], old["rows"])
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
