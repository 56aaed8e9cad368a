"""Which tile is best for one problem: only those compete whose result is right."""

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

# Of the shipped tiles so many are tried: those that the model expects to be fastest.
PROMISING = 14
# Tiles that are timed in turns: each graph holds its results and its workspace.
AT_ONCE = 16
# Microseconds of each call, by the tile it is of.
Timer = Callable[[dict[Tile, Computation]], dict[Tile, float]]


def request_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> TileRequest:
    """What `pick` is asked for this layer."""
    return plan_for(operator, dtype, layer.geometry, gpu).request


def key_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> measured.Key:
    """The key of the row that `pick` would look up."""
    geometry, _, operands, _ = request_of(layer, operator, dtype, gpu)
    return measured.key(geometry, operator, *astuple(operands))


def candidates(layer: Layer, operator: Operator, dtype: str, gpu: Gpu, grid: bool) -> list[Tile]:
    """Of the tiles that `pick` would consider, those shipped that the model expects to be fastest, or all that are
    legal; for wgrad with the splits that the model considers.
    """
    geometry, _, operands, _ = request_of(layer, operator, dtype, gpu)
    found = (fits.legal if grid else fits.available)(operator, operands, gpu)
    found = pick.suited(found, geometry, operator, operands, gpu)
    found = pick.with_splits(found, geometry, operator, operands, gpu)
    if grid:
        return found
    return sorted(found, key=lambda tile: expected(tile, geometry, operator, operands, gpu).cycles)[:PROMISING]


def tune(
    problem: Problem, operator: Operator, tried: Sequence[Tile], gpu: Gpu, timer: Timer
) -> tuple[Row | None, list[str]]:
    """The winning row, and what was refused: tiles whose result is wrong do not compete, however fast."""
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
    """On the device, in turns, with a cold L2 cache: of all that a graph could be captured of."""
    found: dict[Tile, float] = {}
    rest = iter(calls.items())
    while some := dict(islice(rest, AT_ONCE)):
        for tile, times in on_device(some, device, budget=0.05).items():
            if times.how == "graph":
                found[tile] = spread(times.device)["median"]
    return found
