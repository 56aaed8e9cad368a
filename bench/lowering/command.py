"""Compile kernels and report on their machine code: registers, spills, shared memory, instructions.

No GPU is needed. The compilers that come with Triton compile for the architectures of --arch. Nothing is measured: the
figures are facts about the machine code, and bounds that follow from them and from the GPU's data sheet.

Without options it compiles the kernels that the benchmark's layers run with, for sm_90 in bfloat16 and TF32, in a few
minutes. It prints a legend, a line for each kernel, the tiles that issue most instructions, and spills. --all compiles
every shipped tile. --layers with a text compiles what your own layer would run with, for example

    python -m bench lowering --layers "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16"

What was compiled before, from the same source by the same Triton, is kept in build/lowering and not compiled again.
Other files are written only with --json, --publish and --identify.

The exit status is 1 if a kernel does not compile or takes too much shared memory. It is also 1 if --against finds
something worse, or nothing to compare with, and if --identify finds new kernels. It is 2 if the arguments are not
usable. Otherwise it is 0.
"""

import argparse
from pathlib import Path

import triton

from bench import kernel_identity, results
from bench.layers import select
from bench.lowering import against, output, own, ttir
from bench.lowering.bounds import ARCHS
from bench.lowering.choices import shown
from bench.lowering.offline import KERNELS, Job, gpu_of_data_sheet
from bench.lowering.progress import lowered
from bench.lowering.rows import Failure, unfit
from bench.lowering.scope import Scope
from bench.own_layer import EXAMPLE, parse
from bench.results import RESULTS
from bench.run.contenders import DTYPES

COMMITTED = RESULTS / "lowering.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument(
        "--all",
        action="store_true",
        help="compile every shipped tile, also those that no layer runs with; by default for sm_80, sm_90 and sm_100, "
        "in bfloat16, tf32 and float32 (more than a thousand kernels)",
    )
    parser.add_argument(
        "--arch",
        nargs="+",
        choices=["all", *ARCHS],
        metavar="ARCH",
        help=f"compile for these architectures: all, or some of {', '.join(ARCHS)} (default: sm_90)",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["all", *DTYPES],
        metavar="DTYPE",
        help=f"compile for operands of these dtypes: all, or some of {', '.join(DTYPES)} (default: bfloat16 tf32; the "
        "code for float16 is that for bfloat16 but for a few instructions)",
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
        "--tile",
        nargs="+",
        metavar="TILE",
        help="compile only these of all shipped tiles, named as in the table, for example 128x128x64w8s3",
    )
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="compile each shipped tile for every alignment of the operands that it ships for, not only for the best",
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
        help="the benchmark layers whose tiles are compiled, and counted in the column 'layers': all, smoke, or names "
        "with commas between them (default: all)",
    )
    parser.add_argument(
        "--layers",
        nargs="*",
        metavar="LAYER",
        help="print which tile each layer runs with and what should bound it. Without a value: for the benchmark's "
        f'layers, and compile nothing. Your own layers are compiled, too: "{EXAMPLE}"',
    )
    parser.add_argument("--long", action="store_true", help="print a line for every tile, however many there are")
    parser.add_argument(
        "--grid",
        action="store_true",
        help="print how many kernels compile for each architecture and dtype, in the place of the tables",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows of the table to FILE, as a JSON list")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="?",
        const=COMMITTED,
        metavar="FILE",
        help="compare with the rows in FILE, and fail if something got worse: spills, shared memory, occupancy, "
        "opcodes, or more than 2 %% more instructions; if FILE has programs' descriptors and --descriptors is host, so "
        "many more instructions that the bound of a step is 15 %% longer (without FILE: bench/results/lowering.json)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="compile everything anew for every architecture and dtype, and rewrite bench/results/lowering.json and "
        "the README's section on performance (needs matplotlib)",
    )
    parser.add_argument(
        "--identify",
        action="store_true",
        help="say whether the kernels are those that were measured: whether they compile to the same TTIR; add their "
        "source text to bench/results/kernels.json (needs the Triton that constraints.txt pins)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="compile also what build/lowering or Triton's own cache keeps of earlier runs, and replace it",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="compile in N processes (default: one for each CPU)")


def main(args: argparse.Namespace) -> int:
    """Compile the kernels, and print the tables, the kernels that do not fit and what got worse.

    Return the exit status. Nothing is written or published unless all kernels compile and fit.
    """
    scope = Scope.of(args)
    if args.identify:
        return identify()
    committed = results.read_rows(args.against) if args.against else []
    layers = select(args.rows)
    if args.layers == []:
        print(shown(layers, scope.dtypes, scope.archs, map(gpu_of_data_sheet, scope.archs)))
        return 0
    mine = [parse(text) for text in args.layers or []]
    if mine:
        layers = [layer for layer, _ in mine]
        wanted = own.jobs(mine, scope.archs, scope.kernels, scope.host_descriptors)
    else:
        wanted = of_tiles(args.tile, scope.jobs(layers))
    if not wanted:
        raise ValueError(scope.why_nothing())
    run = lowered(wanted, layers, args.processes, args.fresh or args.publish)
    rows, failures = run.rows, run.failures + [Failure(reason) for reason in map(unfit, run.rows) if reason is not None]
    tables = own.shown(mine, scope.archs, rows) if mine else output.tables(rows, args.grid, args.long)
    print(f"{tables}\n\n{run.in_words(triton.__version__)}")
    if rows:
        print(output.spills(rows, args.long))
    if not (scope.all_tiles or mine):
        print(output.of_all(len(set(Scope.of_all(args).jobs(layers)) - set(wanted)), run.seconds_each))
    if failures:
        print("\n".join(failures))
        return 1
    for path in [args.json] * bool(args.json) + [COMMITTED] * args.publish:
        results.write(path, f"{results.lines(rows)}\n")
    if args.publish:
        from bench.report import publish  # only here, because it needs matplotlib

        publish.update()
    if not args.against:
        return 0
    words, status = against.said(rows, committed, str(args.against), None if args.long else output.MOST_WORSE)
    print(words)
    return status


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


def of_tiles(names: list[str] | None, wanted: list[Job]) -> list[Job]:
    """Return the jobs in `wanted` whose tile has one of these names, and those without a tile.

    If `names` is None, return all jobs. Raise ValueError if a name is no job's tile.
    """
    if names is None:
        return wanted
    unknown = set(names) - {str(job.tile) for job in wanted}
    if unknown:
        raise ValueError(f"none of these kernels has the tile {' or '.join(sorted(unknown))}")
    return [job for job in wanted if job.tile is None or str(job.tile) in names]
