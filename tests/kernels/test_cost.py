"""The cost model's constants follow from the committed times, and its errors are those that its docstring states."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from math import exp, log
from statistics import fmean, pstdev
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from bench.layers import read
from bench.results import RESULTS
from tests.support.gpus import A100, H100, H200, MI300
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling import cost, fits, pick
from tritonconv.tiling.descriptors import host_describes
from tritonconv.tiling.tile import Operands, Tile

BFLOAT16 = Operands(2, 8, tma_possible=True)
LAYERS = {layer.name: layer.geometry for layer in read()}
GEOMETRIES = {name: layer.flattened() if layer.pointwise else layer for name, layer in LAYERS.items()}


def with_host(gpu: Gpu, described: bool) -> Gpu:
    """Return the GPU, on which the host makes TMA descriptors where it can if `described`, and otherwise nowhere."""
    return gpu.switched(host_descriptors=described)


# The GPU of the committed times, with the descriptors that they were measured with.
MEASURED = with_host(H200, False)
TMA_GPUS = [H100, Gpu.of("sm_100", 148), Gpu.of("sm_120", 170)]


class Timed(NamedTuple):
    """A committed time in microseconds: of a tile, for a pass of a layer in bfloat16."""

    layer: str
    operator: Operator
    tile: Tile
    microseconds: float

    @property
    def cycles(self) -> float:
        """The cycles that the model expects."""
        return cost.expected(self.tile, GEOMETRIES[self.layer], self.operator, BFLOAT16, MEASURED).cycles


def tile_of(name: str) -> Tile:
    """Return the tile with this name, as `Tile.__str__` writes it."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)w(\d+)s(\d+)(?::(\d+)\.(\d+)\.(\d+))?(?:/(\d+))?", name)
    assert found, name
    M, N, K, warps, stages, B, H, W = (int(number or 0) for number in found.groups()[:8])
    tile = Tile(M, N, K, warps, stages, SPLIT_K=int(found[9] or 1), BLOCK_B=B, BLOCK_H=H, BLOCK_W=W)
    assert str(tile) == name
    return tile


@cache
def times() -> list[Timed]:
    """Return the times that the constants are fitted to."""
    rows = json.loads((RESULTS / "h200-tiles.json").read_text())["rows"]
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    return [
        Timed(row["layer"], row["pass"], tile_of(name), microseconds)
        for row in rows
        for name, microseconds in row["times"].items()
    ]


def cycles_of_a_nanosecond() -> float:
    """Return the ratio of expected cycles to nanoseconds, in the geometric mean of all times."""
    return exp(fmean(log(each.cycles / each.microseconds / 1e3) for each in times()))


def error() -> float:
    """Return the model's error in the root mean square of logarithms, with the best ratio of cycles to nanoseconds."""
    return pstdev(log(each.cycles / each.microseconds) for each in times())


def deviation(values: Tensor) -> float:
    """Return the standard deviation of the values."""
    return float(values.std(correction=0))


def rms(values: Tensor) -> float:
    """Return the root mean square of the values."""
    return float(values.square().mean().sqrt())


def losses() -> list[float]:
    """Return, for each pass of each layer, by how much the tile that is picked without a table is slower than the
    fastest.

    The model often expects the same of several tiles. Then `pick` decides by size, and not by the time.
    """
    problems: dict[tuple[str, Operator], dict[Tile, float]] = defaultdict(dict)
    for each in times():
        problems[each.layer, each.operator][each.tile] = each.microseconds
    assert len(problems) == 75
    nameless = replace(MEASURED, name="")
    return [
        tried[pick.pick(GEOMETRIES[layer], operator, BFLOAT16, nameless)] / min(tried.values()) - 1
        for (layer, operator), tried in problems.items()
    ]


def test_the_errors_are_those_of_the_docstring() -> None:
    stated = " ".join((cost.__doc__ or "").split())
    found = losses()
    mean = exp(fmean(log(1 + loss) for loss in found)) - 1
    for figure in (
        f"fitted to the {len(times())} times",
        f"off by {100 * error():.0f} % in the root mean square",
        f"if {cycles_of_a_nanosecond():.2f} cycles count as a nanosecond",
        f"takes {100 * mean:.1f} % longer than the fastest one in the geometric mean",
        f"and {100 * max(found):.0f} % at worst",
    ):
        assert figure in stated


def logarithms(monkeypatch: pytest.MonkeyPatch, cycles: int) -> Tensor:
    """Return the logarithms of expected cycles to measured nanoseconds if all launches start up in so many `cycles`."""
    monkeypatch.setattr(cost, "START_UP", cost.StartUp(cycles, cycles, cycles))
    return torch.tensor([log(each.cycles / each.microseconds / 1e3) for each in times()], dtype=torch.float64)


def test_the_times_do_not_tell_gathering_from_descriptors_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the two share a start-up: with one for each, the error falls by less than 0.002.

    It grows for layers that the fit has not seen: each layer in turn is left out, and the others choose the start-ups.
    The 70 times of tiles that gather are all of wgrad.
    """
    gathers = torch.tensor([not each.tile.uses_tma for each in times()])
    assert (int(gathers.sum()), {each.operator for each in times() if not each.tile.uses_tma}) == (70, {"wgrad"})
    shared = cost.START_UP.gather
    assert shared == cost.START_UP.own_descriptors
    by_cycles = {cycles: logarithms(monkeypatch, cycles) for cycles in range(shared - 8_000, shared + 13_000, 1_000)}
    committed = by_cycles[shared]
    apart = [torch.where(gathers, gather, own) for gather, own in product(by_cycles.values(), repeat=2)]
    best = min(apart, key=deviation)
    assert deviation(committed) - 0.002 < deviation(best) < deviation(committed)
    shared_errors, apart_errors = [], []
    for layer in {each.layer for each in times()}:
        left = torch.tensor([each.layer == layer for each in times()])
        chosen = min(apart, key=lambda values, seen=~left: deviation(values[seen]))
        shared_errors.append(committed[left] - committed[~left].mean())
        apart_errors.append(chosen[left] - chosen[~left].mean())
    assert rms(torch.cat(shared_errors)) < rms(torch.cat(apart_errors))


def saved() -> list[tuple[float, float]]:
    """Return pairs of microseconds: of a launch whose programs build descriptors, and what the host's save of it."""
    by_layer: dict[str, dict[str, float]] = defaultdict(dict)
    for row in json.loads((RESULTS / "h200-descriptors.json").read_text())["rows"]:
        if row["status"] == "ok":
            by_layer[row["layer"]][row["descriptors"]] = row["device"]["median"]
    return [
        (each["programs"], each["programs"] - each[host])
        for each in by_layer.values()
        for host in each.keys() - {"programs"}
    ]


def test_what_the_host_saves_is_fitted() -> None:
    """The start-up with the host's descriptors is the programs' less the time saved, in hundreds of cycles.

    The squares of the errors, relative to the time of the launch, are as small as possible: each pair weighs the less,
    the longer its launch takes. There are two pairs for each of three layers: descriptors made anew, and those kept.
    """
    pairs = saved()
    assert len(pairs) == 6
    assert all(less > 0 for _, less in pairs)
    microseconds = sum(less / whole**2 for whole, less in pairs) / sum(1 / whole**2 for whole, _ in pairs)
    cycles = microseconds * 1e3 * cycles_of_a_nanosecond()
    assert cost.START_UP.host_descriptors == round(cost.START_UP.own_descriptors - cycles, -2)


def expectations(gpu: Gpu) -> Iterator[tuple[Tile, ConvGeometry, Operator, float, float]]:
    """Yield each tile that is available in bfloat16, for each pass of each layer with one weight, and two expectations.

    These are the cycles without descriptors of the host, and with them.
    """
    for geometry, operator in product(GEOMETRIES.values(), OPERATORS):
        if not geometry.varies:
            for tile in fits.available(operator, BFLOAT16, gpu):
                shaped = pick.with_best_shape(tile, geometry, operator)
                own, host = (
                    cost.expected(shaped, geometry, operator, BFLOAT16, with_host(gpu, described)).cycles
                    for described in (False, True)
                )
                yield shaped, geometry, operator, own, host


@pytest.mark.parametrize("gpu", TMA_GPUS, ids=str)
def test_descriptors_of_the_host_make_every_launch_shorter_that_takes_them(gpu: Gpu) -> None:
    """They save at most the difference of the start-ups, and change nothing where programs build or need none."""
    most = cost.START_UP.own_descriptors - cost.START_UP.host_descriptors
    architecture = with_host(gpu, True).architecture
    seen = set()
    for tile, geometry, operator, own, host in expectations(gpu):
        described = host_describes(tile, geometry, operator, architecture)
        seen.add((described, tile.uses_tma))
        assert (0 < own - host < most + 1) if described else own == host, (tile, geometry, operator)
    assert {(True, True), (False, False)} <= seen


@pytest.mark.parametrize("gpu", [A100, MI300], ids=str)
def test_without_tma_there_is_one_start_up(gpu: Gpu) -> None:
    assert all(own == host for *_, own, host in expectations(gpu))


def test_each_launch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start-up is the host's exactly if `host_describes` says so, for this tile, problem, pass and architecture."""
    gpu = with_host(H100, True)
    geometry = GEOMETRIES["rn50_c3_3x3"]
    asked = []

    def only_dgrad(*about: object) -> bool:
        asked.append(about)
        return "dgrad" in about

    monkeypatch.setattr(cost, "host_describes", only_dgrad)
    gathered, described = tile_of("128x128x64w8s3"), tile_of("128x128x64w4s3:8.4.4")
    found = {
        (operator, tile.uses_tma): cost.start_up(tile, geometry, operator, gpu.architecture)
        for operator, tile in product(OPERATORS, (gathered, described))
    }
    gather, own, host = cost.START_UP
    assert found == {
        **{(operator, False): gather for operator in OPERATORS},
        **{(operator, True): host if operator == "dgrad" else own for operator in OPERATORS},
    }
    assert asked == [(described, geometry, operator, gpu.architecture) for operator in OPERATORS]


def test_descriptors_of_the_host_can_decide_for_tma() -> None:
    """In TF32 on an H100, a 3x3 layer of ResNet gathers pixels if programs build descriptors, and else uses TMA."""
    operands = Operands(4, 4, tma_possible=True)
    picked = [
        pick.pick(GEOMETRIES["rn50_c3_3x3"], "fprop", operands, with_host(H100, described))
        for described in (False, True)
    ]
    assert [tile.uses_tma for tile in picked] == [False, True]
