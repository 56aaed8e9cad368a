"""Finds the fastest tile for one problem. Only tiles whose result is right compete."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from itertools import islice
from typing import Any

import torch

from bench import results
from bench.layers import Layer
from bench.lowering.offline import plan_for
from bench.results import Row
from bench.run import check
from bench.run.contenders import Problem, at_its_best
from bench.run.memory import Computation
from bench.run.timing import on_device, spread
from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import planners, start
from tritonconv.launch.plan import TileRequest
from tritonconv.tiling import fits, measured, pick
from tritonconv.tiling.cost import expected
from tritonconv.tiling.tile import Tile

# How many of the shipped tiles are tried: those that the cost model expects to be fastest.
PROMISING = 14
# How many tiles are timed in turns. More would take too much memory: each CUDA graph holds its results and workspace.
AT_ONCE = 16
# A function that times one call for each tile, and returns the microseconds.
Timer = Callable[[dict[Tile, Computation]], dict[Tile, float]]


def request_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> TileRequest:
    """Return the arguments that `pick` gets for an operator of this layer."""
    return plan_for(operator, dtype, layer.geometry, gpu).request


def key_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> measured.Key:
    """Return the key of the row that `pick` looks up for an operator of this layer."""
    geometry, _, operands, _ = request_of(layer, operator, dtype, gpu)
    return measured.key(geometry, operator, *astuple(operands))


def candidates(layer: Layer, operator: Operator, dtype: str, gpu: Gpu, grid: bool) -> list[Tile]:
    """Return the tiles to try: those that `pick` would consider and the cost model expects to be fastest.

    With `grid`, they are not only the shipped tiles but all that may run. For wgrad, each comes with the split-K parts
    that the cost model considers.
    """
    geometry, _, operands, _ = request_of(layer, operator, dtype, gpu)
    found = (fits.tuning_grid if grid else fits.available)(operator, operands, gpu)
    found = pick.suited(found, geometry, operator, operands, gpu)
    found = pick.with_splits(found, geometry, operator, operands, gpu)
    if grid:
        return found
    return sorted(found, key=lambda tile: expected(tile, geometry, operator, operands, gpu).cycles)[:PROMISING]


def tune(
    problem: Problem, operator: Operator, tried: Sequence[Tile], gpu: Gpu, timer: Timer
) -> tuple[Row | None, list[str]]:
    """Time the tiles `tried` whose result is right.

    Returns the row of the fastest tile, or None if there is none, and a line for each tile that was refused. A tile is
    refused if its result is wrong or it raises an exception.
    """
    call = problem.call(operator)
    wanted = check.samples(operator, problem)
    computations: dict[Tile, Computation] = {}
    refused = []
    with at_its_best(problem.dtype):
        for tile in tried:

            def computation(tile: Tile = tile) -> tuple[torch.Tensor, ...]:
                return start.run(planners.plan(call, gpu, tile))

            try:
                check.assert_right(operator, problem, computation(), wanted)
                computations[tile] = computation
            except check.WrongResult as error:
                refused.append(f"WRONG with {tile}: {error}")
            except Exception as error:
                if results.lost(problem.x.device):
                    raise
                refused.append(f"failed with {tile}: {results.in_short(error)}")
        ranking = sorted(timer(computations).items(), key=lambda item: item[1]) if computations else []
    if not ranking:
        return None, refused
    (best, fastest), *others = ranking
    row = {
        "key": list(key_of(problem.layer, operator, problem.dtype, gpu)),
        "tile": list(astuple(best)),
        "name": str(best),
        "microseconds": round(fastest, 3),
        "runner_up": str(others[0][0]) if others else None,
        "margin": round(others[0][1] / fastest, 4) if others else None,
        "tried": len(computations),
        "times": {str(tile): round(microseconds, 3) for tile, microseconds in ranking},
        "layer": problem.layer.name,
    }
    return row, refused


def medians(calls: dict[Tile, Callable[[], Any]], device: torch.device) -> dict[Tile, float]:
    """Return the median device time of each call, timed in turns with a cold L2 cache.

    Calls that a CUDA graph cannot capture are left out.
    """
    found: dict[Tile, float] = {}
    rest = iter(calls.items())
    while some := dict(islice(rest, AT_ONCE)):
        for tile, times in on_device(some, device, budget=0.05).items():
            if times.how == "graph":
                found[tile] = spread(times.device)["median"]
    return found
