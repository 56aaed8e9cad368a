"""What can be measured without a GPU: every kernel compiled offline, and what its machine code is made of."""

import argparse
import sys
from pathlib import Path

import triton

from bench import kernel_identity, results
from bench.layers import select
from bench.lowering import ttir
from bench.lowering.bounds import ARCHS
from bench.lowering.choices import shown
from bench.lowering.offline import KERNELS, Job, gpu_of_data_sheet, jobs
from bench.lowering.rows import Failure, compared, lower_all, regressions, unfit
from bench.lowering.table import LEGEND, by_architecture, full, load
from bench.results import RESULTS
from bench.run.contenders import DTYPES

COMMITTED = RESULTS / "lowering.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", nargs="+", choices=["all", *ARCHS], default=["sm_80", "sm_90", "sm_100"])
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["all", *DTYPES],
        default=["bfloat16", "tf32", "float32"],
        help="float16 is left out unless it is asked for: its code is bfloat16's but for a few instructions",
    )
    parser.add_argument("--kernel", nargs="+", choices=["all", *KERNELS], default=["all"])
    parser.add_argument("--tile", nargs="+", metavar="TILE", help="only tiles of these names, as the table has them")
    parser.add_argument("--everywhere", action="store_true", help="each tile in every alignment that it ships for")
    parser.add_argument(
        "--rows", default="all", help="the layers whose tiles are marked as defaults: all, smoke, or names"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as a list")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="?",
        const=COMMITTED,
        metavar="FILE",
        help="fail if something got worse than in FILE (bench/results/lowering.json)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="compile for every architecture and dtype, and write bench/results/lowering.json and the README's section",
    )
    parser.add_argument(
        "--grid", action="store_true", help="print only how many kernels compile and fit, by architecture and dtype"
    )
    parser.add_argument(
        "--layers", action="store_true", help="print only which tile every layer would run with, and compile nothing"
    )
    parser.add_argument(
        "--identify",
        action="store_true",
        help="say whether the kernels compile to what they were when they were measured, and keep the answer in "
        "bench/results/kernels.json",
    )
    parser.add_argument("--processes", type=int, help="by default, one for each CPU")


def main(args: argparse.Namespace) -> int:
    """Compile, print the table, what does not fit and what got worse. Returns the exit status.

    Nothing is written or published unless all kernels compile and fit.
    """
    if args.publish and (args.everywhere or args.tile or args.rows != "all"):
        raise ValueError("--publish is of all layers and tiles, and not of --everywhere")
    if args.identify:
        return identify()
    archs, dtypes, kernels = (
        list(every) if "all" in chosen or args.publish else chosen
        for chosen, every in ((args.arch, ARCHS), (args.dtype, DTYPES), (args.kernel, KERNELS))
    )
    committed = load(args.against) if args.against else []
    layers = select(args.rows)
    if args.layers:
        print(shown(layers, dtypes, archs, map(gpu_of_data_sheet, archs)))
        return 0
    wanted = of_tiles(args.tile, jobs(archs, dtypes, kernels, layers, args.everywhere))
    rows, failures = [], []
    for done, row in enumerate(lower_all(wanted, layers, args.processes), start=1):
        if isinstance(row, Failure):
            failures.append(row)
        else:
            rows.append(row)
        if sys.stderr.isatty():
            print(f"\r{done} of {len(wanted)} kernels compiled", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(by_architecture(rows) if args.grid else f"{full(rows)}\n\n{LEGEND}")
    print(f"{len(rows)} kernels compiled with Triton {triton.__version__}, {len(failures)} did not compile.")
    failures += [Failure(reason) for reason in map(unfit, rows) if reason is not None]
    if failures:
        print("\n".join(failures))
        return 1
    for path in [args.json] * bool(args.json) + [COMMITTED] * args.publish:
        results.write(path, f"{results.lines(rows)}\n")
    if args.publish:
        from bench.report import publish  # draws, for which there must be matplotlib

        publish.update()
    if not args.against:
        return 0
    worse, count = regressions(rows, committed), compared(rows, committed)
    print(f"{count} of {len(rows)} rows compared with {args.against}, {len(worse)} got worse")
    print("\n".join(worse))
    return 1 if worse or not count else 0


def identify() -> int:
    """Put the kernels of the checkout among the known ones. Returns the exit status: 1 if some are new."""
    if triton.__version__ != kernel_identity.pinned():
        raise ValueError(
            f"kernels are identified with Triton {kernel_identity.pinned()}, not with {triton.__version__}"
        )
    found, said = kernel_identity.identified(
        kernel_identity.read(), kernel_identity.source_hashes(), ttir.hashes(), triton.__version__
    )
    results.write(kernel_identity.KNOWN, kernel_identity.dump(found))
    print("\n".join(said))
    return int(any("new" in line for line in said))


def of_tiles(names: list[str] | None, wanted: list[Job]) -> list[Job]:
    """The kernels with tiles of these names, and the one that has no tile. All, if there are no names."""
    if names is None:
        return wanted
    unknown = set(names) - {str(job.tile) for job in wanted}
    if unknown:
        raise ValueError(f"none of these kernels has the tile {' or '.join(sorted(unknown))}")
    return [job for job in wanted if job.tile is None or str(job.tile) in names]
