"""Compile kernels without a GPU, and report on their machine code: registers, spills, shared memory, instructions.

The compilers that come with Triton compile for the architectures of --arch. Nothing is measured: the figures are facts
about the machine code, and bounds that follow from them and from the GPU's data sheet.

Without options it compiles the kernels with the tiles that are picked for the benchmark's layers on sm_90: about 230.
--all compiles every shipped tile of every kernel, more than a thousand for three architectures at about a second each
on one CPU. --layers and --identify take seconds. Files are written only with --json, --publish and --identify.

The exit status is 1 if a kernel does not compile or takes too much shared memory. It is also 1 if --against finds
something worse, or nothing to compare with, and if --identify finds new kernels. It is 2 if the arguments are not
usable. Otherwise it is 0.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import triton

from bench import kernel_identity, results
from bench.layers import VARIES
from bench.lowering import own, ttir
from bench.lowering.against import compared, longer_steps, regressions
from bench.lowering.bounds import ARCHS
from bench.lowering.choices import shown
from bench.lowering.offline import KERNELS, Job, gpu_of_data_sheet
from bench.lowering.overview import listed, overview
from bench.lowering.rows import Failure, lower_all, unfit
from bench.lowering.selection import ALL_ARCHS, SOME_ARCHS, SOME_DTYPES, Selection, what_all_adds
from bench.lowering.table import Row, by_architecture
from bench.own_layer import EXAMPLE, own_layer
from bench.results import RESULTS
from bench.run.contenders import DTYPES

COMMITTED = RESULTS / "lowering.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument(
        "--arch",
        nargs="+",
        choices=["all", *ARCHS],
        metavar="ARCH",
        help=f"compile for these architectures: all, or some of {', '.join(ARCHS)} (default: {' '.join(SOME_ARCHS)}; "
        f"with --all {' '.join(ALL_ARCHS)})",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["all", *DTYPES],
        metavar="DTYPE",
        help=f"compile for operands of these dtypes: all, or some of {', '.join(DTYPES)} (default: "
        f"{' '.join(SOME_DTYPES)}; the code for float16 is that for bfloat16 but for a few instructions)",
    )
    parser.add_argument(
        "--kernel",
        nargs="+",
        choices=["all", *KERNELS],
        default=["all"],
        metavar="KERNEL",
        help=f"compile only these kernels: all, or some of {', '.join(KERNELS)} (default: all)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="compile every shipped tile, not only those that are picked for the layers of --rows",
    )
    parser.add_argument(
        "--tile",
        nargs="+",
        metavar="TILE",
        help="compile only these of all shipped tiles, named as in the table, for example 128x128x64w8s3",
    )
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="compile every shipped tile for every alignment of the operands that it ships for, not only for the best",
    )
    parser.add_argument(
        "--descriptors",
        choices=["programs", "host"],
        default="programs",
        help="who makes TMA descriptors: each program those that it needs, or the host where it can; with host, only "
        "kernels that take the host's are compiled (default: programs)",
    )
    parser.add_argument(
        "--rows",
        default="all",
        metavar="LAYERS",
        help="the benchmark layers whose tiles are compiled, and counted in the column 'layers': all, smoke (a few "
        "of each family), held-out, or names with commas between them (default: all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows of the table to FILE, as a JSON list")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="?",
        const=COMMITTED,
        metavar="FILE",
        help="compare with the rows in FILE, say what got worse, and fail if something did: spills, shared memory, "
        "occupancy, opcodes, or more than 2 %% more instructions; if FILE has programs' descriptors and --descriptors "
        "is host, so many more instructions that the bound of a step is 15 %% longer (without FILE: "
        "bench/results/lowering.json)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="compile everything for every architecture and dtype, and rewrite bench/results/lowering.json and the "
        "README's section on performance (needs matplotlib)",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="print how many kernels compile for each architecture and dtype, in the place of the table",
    )
    parser.add_argument(
        "--long", action="store_true", help="print a row for each kernel, and lists to their ends: more than a screen"
    )
    parser.add_argument(
        "--layers",
        nargs="*",
        metavar="LAYER",
        help="print which tile each layer of --rows would run with and what should bound it; compile nothing; or the "
        f"same of layers of your own, and compile their kernels; write one as '{EXAMPLE}' (operators: "
        f"{', '.join(VARIES)}; dtypes: bf16, fp16, tf32, fp32)",
    )
    parser.add_argument(
        "--identify",
        action="store_true",
        help="say whether the kernels are those that were measured: whether they compile to the same TTIR; add their "
        "source text to bench/results/kernels.json (needs the Triton that constraints.txt pins)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="compile in N processes (default: one for each CPU)")


def main(args: argparse.Namespace) -> int:
    """Compile the kernels, and print the table, the kernels that do not fit and what got worse.

    Return the exit status. Nothing is written or published unless all kernels compile and fit.
    """
    check(args)
    if args.identify:
        return identify()
    committed = results.read_rows(args.against) if args.against else []
    selection = Selection.of(args)
    if args.layers == []:
        gpus = map(gpu_of_data_sheet, selection.archs)
        print(shown(selection.layers, selection.dtypes, selection.archs, gpus))
        return 0
    begun = time.perf_counter()
    if args.layers:
        layers = [own_layer(text) for text in args.layers]
        chosen = own.own_jobs(layers, selection.archs, selection.kernels, selection.host_descriptors)
        rows, failures = compile_all(list(chosen), chosen, args.processes)
        print(own.shown(layers, selection.archs, rows))
    else:
        wanted = selection.jobs()
        rows, failures = compile_all(wanted, selection.chosen(), args.processes)
        print(by_architecture(rows) if args.grid else overview(rows, args.long))
    print(f"{len(rows)} kernels compiled with Triton {triton.__version__}, {len(failures)} did not compile.")
    if not args.layers and not selection.every_tile:
        print(what_all_adds(selection, wanted, len(wanted), time.perf_counter() - begun))
    failures += [Failure(reason) for reason in map(unfit, rows) if reason is not None]
    if failures:
        print(listed(failures, args.long))
        return 1
    for path in [args.json] * bool(args.json) + [COMMITTED] * args.publish:
        results.write(path, f"{results.lines(rows)}\n")
    if args.publish:
        from bench.report import publish  # only here, because it needs matplotlib

        publish.update()
    return compare(rows, committed, args) if args.against else 0


def check(args: argparse.Namespace) -> None:
    """Raise ValueError if options exclude each other."""
    if args.publish and (args.everywhere or args.tile or args.rows != "all" or args.descriptors == "host"):
        raise ValueError(
            "--publish compiles all layers and tiles, with programs' descriptors: "
            "leave out --everywhere, --tile, --rows and --descriptors"
        )
    given = {
        "--all": args.all,
        "--everywhere": args.everywhere,
        "--tile": args.tile,
        "--rows": args.rows != "all",
        "--dtype": args.dtype,
        "--publish": args.publish,
        "--grid": args.grid,
    }
    if args.layers and (useless := [name for name, value in given.items() if value]):
        raise ValueError(f"layers of your own name their dtype, and have one tile each: leave out {', '.join(useless)}")


def compile_all(
    wanted: Sequence[Job], chosen: Mapping[Job, list[str]], processes: int | None
) -> tuple[list[Row], list[Failure]]:
    """Return the rows of the jobs, and those that do not compile. A terminal shows how many are done."""
    rows, failures = [], []
    for done, row in enumerate(lower_all(wanted, chosen, processes), start=1):
        if isinstance(row, Failure):
            failures.append(row)
        else:
            rows.append(row)
        if sys.stderr.isatty():
            print(f"\r{done} of {len(wanted)} kernels compiled", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return rows, failures


def compare(rows: Sequence[Row], committed: Sequence[Row], args: argparse.Namespace) -> int:
    """Print which rows are worse than the committed ones. Return the exit status."""
    worse, count = regressions(rows, committed), compared(rows, committed)
    print(f"{count} of {len(rows)} kernels compared with {args.against}: {len(worse)} figures are worse.")
    if args.descriptors == "host":
        print(longer_steps(rows, committed))
    if not count:
        print("There is nothing to compare: only kernels compiled by the same version of Triton are compared.")
    if worse:
        print(listed(worse, args.long))
    return 1 if worse or not count else 0


def identify() -> int:
    """Add the kernels of the checkout to `kernels.json`. Return the exit status: 1 if an operator got a new entry.

    Raise ValueError if Triton is not the version that `constraints.txt` pins.
    """
    if triton.__version__ != kernel_identity.pinned():
        raise ValueError(
            f"kernels are identified with Triton {kernel_identity.pinned()}, not with {triton.__version__}: "
            "install the versions in constraints.txt"
        )
    found, said = kernel_identity.identified(
        kernel_identity.read(), kernel_identity.source_hashes(), ttir.hashes(), triton.__version__
    )
    results.write(kernel_identity.KNOWN, kernel_identity.dump(found))
    print("\n".join(said))
    return int(any("new" in line for line in said))
