"""Finds the fastest tile for one problem. Only tiles whose result is right compete."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import cache
from itertools import islice
from typing import Any

import torch

from bench import kernel_identity, results
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
# A function that times one call for each tile, and returns the microseconds by tile. It may leave tiles out.
Timer = Callable[[dict[Tile, Computation]], dict[Tile, float]]


def request_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> TileRequest:
    """Return the arguments that `pick` gets for an operator of this layer, without a bias and in channels_last."""
    return plan_for(operator, dtype, layer.geometry, gpu).request


def key_of(layer: Layer, operator: Operator, dtype: str, gpu: Gpu) -> measured.Key:
    """Return the key of the row that `pick` looks up for an operator of this layer."""
    geometry, _, operands, _ = request_of(layer, operator, dtype, gpu)
    return measured.key(geometry, operator, *astuple(operands))


def candidates(layer: Layer, operator: Operator, dtype: str, gpu: Gpu, grid: bool) -> list[Tile]:
    """Return the tiles to try: of the tiles among which `pick` chooses, the PROMISING fastest by the cost model.

    With `grid`, return all suited tiles of a full grid instead (`fits.tuning_grid`, `pick.suited`). For wgrad, each
    tile comes with every SPLIT_K that is worth considering (`pick.splits`).
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
    """Check the result of each tile in `tried`, and time the tiles whose result is right.

    Return the row of the fastest tile, or None if `timer` timed none, and a line for each tile that was refused. A tile
    is refused if its result is wrong or if it raises an exception. If the GPU is lost, the exception is raised again.

    The row says all that a table of measured tiles needs: `bench.tune.take` puts it there, also from a record.
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
        "layer": problem.layer.name,
        "pass": operator,
        "dtype": problem.dtype,
        "kernels": results.kernels_of([operator], kernels()),
        "key": list(key_of(problem.layer, operator, problem.dtype, gpu)),
        "tile": list(astuple(best)),
        "name": str(best),
        "microseconds": round(fastest, 3),
        "runner_up": str(others[0][0]) if others else None,
        "margin": round(others[0][1] / fastest, 4) if others else None,
        "tried": len(computations),
        "times": {str(tile): round(microseconds, 3) for tile, microseconds in ranking},
    }
    return row, refused


@cache
def kernels() -> dict[str, str]:
    """Return the name of each operator's kernels. It takes a while to hash their files, so it is done once."""
    return kernel_identity.names()


def medians(calls: dict[Tile, Callable[[], Any]], device: torch.device) -> dict[Tile, float]:
    """Return the median device time of each call in microseconds, with a cold L2 cache.

    AT_ONCE calls at a time are timed in turns. Calls that a CUDA graph cannot capture are left out.
    """
    found: dict[Tile, float] = {}
    rest = iter(calls.items())
    while some := dict(islice(rest, AT_ONCE)):
        for tile, times in on_device(some, device, budget=0.05).items():
            if times.how == "graph":
                found[tile] = spread(times.device)["median"]
    return found
