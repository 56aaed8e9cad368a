"""Measure which tile is fastest for each operator of each layer on this GPU, and keep the winners.

This needs a GPU. It first compiles every tile that it will try, in parallel processes. Each tile's result is checked
against float64: a tile whose result is wrong does not compete, however fast it is.

The winners become rows of the GPU's table, tritonconv/tiling/measured_tiles/<GPU>.json, where tritonconv looks tiles up
before it asks its cost model. The table is written after each row, so the command may be stopped at any moment.
Called again, it measures only what the table has no row of these kernels for. A table also serves GPUs like its own:
those of the same architecture whose number of multiprocessors differs by at most a tenth. Their own tables come first.

With --take FILE nothing is measured, and no GPU is needed. FILE is a record that --times or `bench device` wrote. Its
winners become rows of the table of the GPU that they were measured on. They are refused if FILE is a rehearsal, or if
the kernels have changed since.

The exit status is 1 if a tile was wrong or failed. It is 2 if there is no GPU, or if the arguments or FILE are not
usable. Otherwise it is 0.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from bench import results
from bench.device import cache
from bench.device.schedule import Clock, Record, in_time
from bench.layers import Layer, tunable
from bench.lowering.offline import plan_for, precompile
from bench.run.contenders import DTYPES, Problem
from bench.tune.search import candidates, kernels, key_of, medians, tune
from bench.tune.table import Table
from bench.tune.take import take
from tritonconv import runtime
from tritonconv.geometry import OPERATORS, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan
from tritonconv.tiling import measured
from tritonconv.tiling.tile import Tile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument(
        "--rows",
        default="all",
        metavar="LAYERS",
        help="layers of bench/layers.csv: all, smoke (fourteen layers), or names with commas between them; held-out "
        "layers are refused (default: all)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=list(DTYPES),
        default=["bfloat16"],
        metavar="DTYPE",
        help=f"tune for operands of these dtypes: some of {', '.join(DTYPES)} (default: bfloat16)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="begin nothing more that may not end within N seconds; compilation counts, but is not cut short "
        "(default: no limit)",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="try every legal tile (default: the shipped tiles that the cost model expects to be fastest)",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure also what the table already has a row of these kernels for"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the table to write (default: this GPU's table in tritonconv/tiling/measured_tiles)",
    )
    parser.add_argument(
        "--times",
        type=Path,
        metavar="FILE",
        help="also write the times of all tiles that were tried to FILE, as JSON, which --take reads",
    )
    parser.add_argument(
        "--take",
        type=Path,
        metavar="FILE",
        help="measure nothing, and put the winners in the record FILE into the table of its GPU",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=f"start with the compiled kernels in DIR/{cache.ARCHIVE}, and save all compiled kernels there at the end",
    )


def main(args: argparse.Namespace) -> int:
    """Tune, and print one line for each problem.

    Return the exit status: 1 if a tile was wrong or failed, 2 if there is no GPU, otherwise 0.
    """
    if args.take:
        return take(args.take, args.out)
    layers = tunable(args.rows)
    if not torch.cuda.is_available():
        print("python -m bench tune needs a GPU, and torch.cuda finds none", file=sys.stderr)
        return 2
    gpu = runtime.gpu_of(torch.device("cuda"))
    table = Table(args.out or measured.FOLDER / measured.file_of(gpu.name), gpu, kernels())
    todo = tasks(layers, args.dtypes, gpu, None if args.again else table, args.grid)
    clock = Clock(args.seconds or float("inf"))
    record = None
    if args.times:
        record = Record(args.times, part="tiles", environment=results.environment(torch.device("cuda")), ceilings={})
        record.plan(task.name for task in todo)
    with cache.kept(args.cache):
        done, refused = tune_all(todo, table, clock, gpu, record)
    if record:
        record.close()
    print(f"{done} of {len(todo)} problems tuned. The table is {table.path}.")
    if done < len(todo):
        print("The time was up. Call the command again to tune the rest.")
    return int(refused > 0)


def tune_all(
    todo: "Sequence[Task]", table: Table, clock: Clock, gpu: Gpu, record: Record | None = None
) -> tuple[int, int]:
    """Compile the kernels of all tiles to try, then tune as many problems as there is time for.

    The rows go into `table`, and the times of all tiles into `record` if there is one. Return how many problems were
    tuned, and how many tiles were refused because they were wrong or failed.
    """
    device = torch.device("cuda")
    done = refusals = 0
    problem: Problem | None = None
    precompile((task.plan(tile, gpu) for task in todo for tile in task.candidates), device)
    for task in in_time(todo, clock):
        if problem is None or (problem.layer, problem.dtype) != (task.layer, task.dtype):
            problem = None  # before the next is drawn, for memory
            problem = Problem.draw(task.layer, task.dtype, device)
        row, refused = tune(problem, task.operator, task.candidates, gpu, timer=lambda calls: medians(calls, device))
        done, refusals = done + 1, refusals + len(refused)
        for line in refused:
            print(line)
        if row is not None:
            table.add(row)
            if record:
                record.add(task.name, [row])
            second = "no other tile" if row["margin"] is None else f"the next tile takes {row['margin']} times as long"
            result = f"{row['name']} takes {row['microseconds']} us, {second}"
            print(f"{task.name}: {result}", flush=True)
    return done, refusals


class Task(NamedTuple):
    """One problem to tune: an operator of a layer in a dtype, and the tiles to try."""

    layer: Layer
    operator: Operator
    dtype: str
    candidates: list[Tile]

    @property
    def name(self) -> str:
        return f"{self.layer.name} {self.operator} {self.dtype}"

    def plan(self, tile: Tile, gpu: Gpu) -> Plan:
        """Return the plan of the problem on `gpu` with this tile."""
        return plan_for(self.operator, self.dtype, self.layer.geometry, gpu, tile)


def tasks(layers: Sequence[Layer], dtypes: Sequence[str], gpu: Gpu, known: Table | None, grid: bool) -> list[Task]:
    """Return the problems to tune: those for which `known` has no row of the kernels as they are now.

    If `known` is None, these are all problems. Of several layers with the same key, only the first has a problem.
    """
    found: dict[measured.Key, Task] = {}
    for dtype, layer, operator in product(dtypes, layers, OPERATORS):
        key = key_of(layer, operator, dtype, gpu)
        if key not in found and not (known and known.has(key, operator)):
            found[key] = Task(layer, operator, dtype, candidates(layer, operator, dtype, gpu, grid))
    return list(found.values())
