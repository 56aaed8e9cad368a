"""Measure the tiles for layers on this GPU. The winners become rows of `tritonconv/gpus/`, which `pick` looks up."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from bench import check, results
from bench.contenders import DTYPES, Problem, at_its_best
from bench.layers import Layer, select
from bench.offline import launches, operands_for, precompile
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
    path = args.out or measured.FOLDER / measured.file_of(gpu.name)
    table = Table(path, gpu.name, results.kernel_hashes())
    todo = [
        (dtype, layer, operator)
        for dtype in args.dtypes
        for layer in select(args.rows)
        for operator in results.OPERATORS
        if layer.why_not is None and (args.again or not table.has(key_of(layer, operator, dtype, gpu), operator))
    ]
    deadline = time.monotonic() + args.seconds if args.seconds else float("inf")
    tried = [
        (layer, dtype, operator, candidates(layer, operator, dtype, gpu, args.grid)) for dtype, layer, operator in todo
    ]
    precompile(
        (launches(o, d, layer.geometry, gpu, tile, bias=False) for layer, d, o, ts in tried for tile in ts), device
    )
    wrong = 0
    problem: Problem | None = None
    for done, (layer, dtype, operator, ts) in enumerate(tried):
        if time.monotonic() > deadline:
            print(f"the time is up: {len(tried) - done} of {len(tried)} problems are left; call again to go on")
            break
        if problem is None or (problem.layer, problem.dtype) != (layer, dtype):
            problem = None
            problem = Problem.draw(layer, dtype, device)
        row, refused = tune(problem, operator, ts, gpu, timer=lambda calls: medians(calls, device))
        wrong += len(refused)
        print("\n".join(refused), end="\n" * bool(refused))
        if row is not None:
            table.add(row)
            print(
                f"{layer.name} {operator} {dtype}: {row['name']} {row['microseconds']} us, margin {row['margin']}",
                flush=True,
            )
    return 1 if wrong else 0


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
        "key": list(
            measured.key(
                problem.geometry, operator, *astuple(operands_for(operator, problem.dtype, problem.geometry, gpu))
            )
        ),
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
        found = json.loads(path.read_text()) if path.exists() else {"gpu": gpu, "rows": []}
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
