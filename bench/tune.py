"""Measure the tiles for layers on this GPU. The winners become rows of `tritonconv/gpus/`, which `pick` looks up."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import check, results
from bench.contenders import DTYPES, Problem, at_its_best
from bench.layers import Layer, select
from bench.offline import launches, operands_for, precompile
from bench.schedule import Clock, in_time
from bench.timing import on_device, spread
from tritonconv import launch, measured, processor, tiles
from tritonconv.geometry import Operator

Row = dict[str, Any]
# Microseconds of each call, by the tile it is of.
Timer = Callable[[dict[tiles.Tile, Callable[[], Any]]], dict[tiles.Tile, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default="all", help="layers: all, smoke, or names with commas between them")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bfloat16"])
    parser.add_argument("--seconds", type=float, help="stop after this time; the next call goes on from there")
    parser.add_argument("--grid", action="store_true", help="try every legal tile, not only those that are shipped")
    parser.add_argument("--again", action="store_true", help="also what the table has for these kernels already")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table (tritonconv/gpus/<this GPU>.json)")


def main(args: argparse.Namespace) -> int:
    """Tune, and print one line for each problem. Returns the exit status: 1 if a tile computed something wrong."""
    if not torch.cuda.is_available():
        print("python -m bench tune measures tiles on a GPU, and there is none", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    gpu = processor.device_of(device)
    table = Table(args.out or measured.FOLDER / measured.file_of(gpu.name), gpu.name, results.kernel_hashes())
    todo = tasks(select(args.rows), args.dtypes, gpu, None if args.again else table, args.grid)
    clock = Clock(args.seconds or float("inf"))
    precompile((task.launches(tile, gpu) for task in todo for tile in task.candidates), device)
    wrong = done = 0
    problem: Problem | None = None
    for task in in_time(todo, clock):
        if problem is None or (problem.layer, problem.dtype) != (task.layer, task.dtype):
            problem = None  # before the next is drawn, for memory
            problem = Problem.draw(task.layer, task.dtype, device)
        row, refused = tune(problem, task.operator, task.candidates, gpu, timer=lambda calls: medians(calls, device))
        wrong, done = wrong + len(refused), done + 1
        for line in refused:
            print(line)
        if row is not None:
            table.add(row)
            result = f"{row['name']} in {row['microseconds']} us, margin {row['margin']}"
            print(f"{task.layer.name} {task.operator} {task.dtype}: {result}", flush=True)
    print(f"{done} of {len(todo)} problems tuned{'' if done == len(todo) else ', call again to go on'}: {table.path}")
    return 1 if wrong else 0


class Task(NamedTuple):
    """One problem to tune, and the tiles to try."""

    layer: Layer
    operator: Operator
    dtype: str
    candidates: list[tiles.Tile]

    def launches(self, tile: tiles.Tile, gpu: tiles.Device) -> list[launch.Launch]:
        return launches(self.operator, self.dtype, self.layer.geometry, gpu, tile, bias=False)


def tasks(
    layers: Sequence[Layer], dtypes: Sequence[str], gpu: tiles.Device, known: "Table | None", grid: bool
) -> list[Task]:
    """What `known` has no row of. Of layers that share a row, the first stands for all."""
    found: dict[measured.Key, Task] = {}
    for dtype, layer, operator in product(dtypes, layers, results.OPERATORS):
        if layer.why_not is None:
            key = key_of(layer, operator, dtype, gpu)
            if key not in found and not (known and known.has(key, operator)):
                found[key] = Task(layer, operator, dtype, candidates(layer, operator, dtype, gpu, grid))
    return list(found.values())


def key_of(layer: Layer, operator: Operator, dtype: str, gpu: tiles.Device) -> measured.Key:
    """The key of the row that `pick` would look up."""
    operands = operands_for(operator, dtype, layer.geometry, gpu)
    return measured.key(layer.geometry, operator, *astuple(operands))


def candidates(layer: Layer, operator: Operator, dtype: str, gpu: tiles.Device, grid: bool) -> list[tiles.Tile]:
    """The shipped tiles that fit, or all that are legal; for wgrad with the splits that the model considers."""
    operands = operands_for(operator, dtype, layer.geometry, gpu)
    found = (tiles.legal if grid else tiles.available)(operator, operands, gpu)
    return tiles.with_splits(found, operator, layer.geometry.gemm(operator), gpu)


def tune(
    problem: Problem, operator: Operator, tried: Sequence[tiles.Tile], gpu: tiles.Device, timer: Timer
) -> tuple[Row | None, list[str]]:
    """The winning row, and what was refused: tiles whose result is wrong do not compete, however fast."""
    factors = {"fprop": (problem.x, problem.weight, None), "dgrad": (problem.y, problem.weight, None)}
    first, second, bias = factors.get(operator, (problem.x, problem.y, False))
    expected = check.samples(operator, problem)
    calls: dict[tiles.Tile, Callable[[], Any]] = {}
    refused = []
    with at_its_best(problem.dtype):
        for tile in tried:

            def call(tile: tiles.Tile = tile) -> tuple[torch.Tensor, ...]:
                return launch.run(launch.PLANS[operator](first, second, bias, problem.geometry, True, gpu, tile))

            try:
                check.verify(operator, problem, call(), expected)
                calls[tile] = call
            except check.WrongResult as error:
                refused.append(f"WRONG with {tile}: {error}")
            except Exception as error:
                if results.is_sticky(error):
                    raise
                refused.append(f"failed with {tile}: {f'{error}'.splitlines()[0][:200]}")
        if not calls:
            return None, refused
        ranking = sorted(timer(calls).items(), key=lambda item: item[1])
    (best, fastest), *others = ranking
    row = {
        "key": list(key_of(problem.layer, operator, problem.dtype, gpu)),
        "tile": list(astuple(best)),
        "name": str(best),
        "microseconds": round(fastest, 3),
        "runner_up": str(others[0][0]) if others else None,
        "margin": round(others[0][1] / fastest, 4) if others else None,
        "tried": len(calls),
        "layer": problem.layer.name,
    }
    return row, refused


def medians(calls: dict[tiles.Tile, Callable[[], Any]], device: torch.device) -> dict[tiles.Tile, float]:
    """On the device, in turns, with a cold L2 cache."""
    return {tile: spread(times.device)["median"] for tile, times in on_device(calls, device, budget=0.05).items()}


class Table:
    """The rows of one GPU, on disk after each: a call that is stopped loses nothing, and the next one goes on."""

    def __init__(self, path: Path, gpu: str, hashes: dict[str, str]) -> None:
        self.path = path
        self.hashes = hashes
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"gpu": gpu, "rows": []}
        if found["gpu"] != gpu:
            raise ValueError(f"{path} is the table of {found['gpu']}, not of {gpu}")
        self.gpu = gpu
        self.rows: dict[measured.Key, Row] = {tuple(row["key"]): row for row in found["rows"]}

    def has(self, key: measured.Key, operator: Operator) -> bool:
        """Whether there is a row that was measured with the kernel as it is."""
        return key in self.rows and self.rows[key]["kernel"] == self.hashes[operator]

    def add(self, row: Row) -> None:
        """Keep the row, in the place of an older one."""
        key = tuple(row["key"])
        self.rows[key] = row | {"kernel": self.hashes[key[0]], "torch": torch.__version__}
        lines = ",\n".join(json.dumps(self.rows[key]) for key in sorted(self.rows, key=str))
        results.write(self.path, f'{{"gpu": {json.dumps(self.gpu)}, "rows": [\n{lines}\n]}}\n')
