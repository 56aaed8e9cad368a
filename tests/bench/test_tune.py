"""Tuning: wrong tiles do not compete, the table survives being stopped, and `pick` reads the table."""

import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.device import tuning
from bench.layers import select
from bench.run.contenders import Problem
from bench.tune import search
from bench.tune.table import Table
from tests.support.gpus import H200
from tests.support.measured_tables import GEOMETRY, OPERANDS, empty_tables, row_for
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.launch import start
from tritonconv.launch.plan import Plan
from tritonconv.tiling import catalogue, fits, measured, pick
from tritonconv.tiling.tile import Operands, Tile

pytest.importorskip("triton")

TILES = [Tile(16, 16, 16, 4, 1), Tile(32, 16, 16, 4, 1), Tile(64, 16, 16, 4, 1)]
SPEED = {TILES[0]: 30.0, TILES[1]: 10.0, TILES[2]: 12.0}
here = pytest.mark.skipif(torch.cuda.is_available(), reason="tiles of this size are for the interpreter")


@pytest.fixture
def problem() -> Problem:
    (layer,) = select("rn50_c5_1x1_s2_down")
    return Problem.draw(layer.scaled_down(), "float32", torch.device("cpu"))


def timed(calls: dict[Tile, Callable[[], Any]]) -> dict[Tile, float]:
    """Return the time of each tile in `SPEED`, without calling anything."""
    return {tile: SPEED[replace(tile, SPLIT_K=1)] for tile in calls}


@here
@pytest.mark.parametrize("operator", ["fprop", "dgrad", "wgrad"])
def test_the_fastest_wins_by_its_margin(operator: Operator, problem: Problem) -> None:
    row, refused = search.tune(problem, operator, TILES, INTERPRETER, timed)
    assert refused == []
    assert row is not None
    assert (row["tile"], row["runner_up"]) == (list(astuple(TILES[1])), str(TILES[2]))
    assert (row["microseconds"], row["margin"], row["tried"]) == (10.0, 1.2, 3)


@here
def test_a_wrong_tile_does_not_compete(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    right = start.run

    def wrong(plan: Plan) -> tuple[torch.Tensor, ...]:
        blocks = plan.launches[0].arguments
        return tuple(t * (2 if blocks["BLOCK_M"] == 32 else 1) for t in right(plan))

    monkeypatch.setattr(start, "run", wrong)
    row, refused = search.tune(problem, "fprop", TILES, INTERPRETER, timed)
    assert row is not None
    assert row["tile"] == list(astuple(TILES[2]))
    assert len(refused) == 1
    assert refused[0].startswith(f"WRONG with {TILES[1]}")
    none, refused = search.tune(problem, "fprop", TILES[1:2], INTERPRETER, timed)
    assert none is None
    assert len(refused) == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from empty_tables(tmp_path, monkeypatch)


def test_the_table_goes_on_where_it_was_stopped(folder: Path) -> None:
    path = folder / measured.file_of("NVIDIA H200")
    assert path.name == "nvidia-h200.json"
    hashes = {"fprop": "1", "dgrad": "2", "wgrad": "3"}
    Table(path, H200, hashes).add(row_for(TILES[0]))
    Table(path, H200, hashes).add(row_for(TILES[1], "dgrad"))
    Table(path, H200, hashes).add(row_for(TILES[2]))
    found = Table(path, H200, hashes)
    assert sorted(row["tile"] for row in found.rows.values()) == sorted(list(astuple(t)) for t in (TILES[1], TILES[2]))
    key = tuple(row_for(TILES[0])["key"])
    assert found.has(key, "fprop")
    assert not found.has(key[:-1], "fprop")
    assert not Table(path, H200, hashes | {"fprop": "changed"}).has(key, "fprop")
    for other, message in (
        (Gpu.of("sm_80", 108, "NVIDIA A100"), "the table of NVIDIA H200, not of NVIDIA A100"),
        (Gpu.of("sm_90", 66, "NVIDIA H200"), "the table of 132, not of 66"),
    ):
        with pytest.raises(ValueError, match=message):
            Table(path, other, hashes)
    table = json.loads(path.read_text())
    assert (table["gpu"], table["architecture"], table["multiprocessors"]) == ("NVIDIA H200", "sm_90", 132)


def test_images_and_locations_are_measured_apart() -> None:
    """Two problems with as many positions in all, but other numbers of images (rows of a product), have two keys."""
    many, few = (ConvGeometry(B, 64, n, n, 64, n, n, 1, 1, varies="p q") for B, n in ((128, 16), (8, 64)))
    keys = {measured.key(geometry, "fprop", *astuple(replace(OPERANDS, varies="p q"))) for geometry in (many, few)}
    assert len(keys) == 2


def test_an_older_table_learns_which_gpus_are_like_its_own(folder: Path) -> None:
    path = folder / "nvidia-h200.json"
    path.write_text(json.dumps({"gpu": "NVIDIA H200", "rows": [row_for(TILES[0], "dgrad")]}))
    table = Table(path, H200, {"fprop": "1"})
    table.add(row_for(TILES[1]))
    found = json.loads(path.read_text())
    assert (found["architecture"], found["multiprocessors"], len(found["rows"])) == ("sm_90", 132, 2)


def test_pick_takes_what_was_measured(folder: Path) -> None:
    """A measured tile is picked on its GPU, for its problem and batch sizes near it, and nowhere else."""
    best = Tile(128, 64, 64, 4, 3)
    Table(folder / "nvidia-h200.json", H200, {"fprop": "1"}).add(row_for(best))
    model = pick.pick(GEOMETRY, "fprop", OPERANDS, Gpu.of("sm_90", 132))
    assert model != best
    assert pick.pick(GEOMETRY, "fprop", OPERANDS, H200) == best
    assert pick.pick(replace(GEOMETRY, B=120), "fprop", OPERANDS, H200) == best
    assert pick.pick(replace(GEOMETRY, B=1024), "fprop", OPERANDS, H200) != best
    assert pick.pick(GEOMETRY, "fprop", Operands(4, 4), H200) != best
    assert pick.pick(GEOMETRY, "dgrad", OPERANDS, H200) != best
    assert pick.pick(replace(GEOMETRY, F=512), "fprop", OPERANDS, H200) != best


def test_a_measured_tile_of_another_depth_is_not_picked(folder: Path) -> None:
    """With another BLOCK_K, a batch would be summed in another order than its images one by one."""
    Table(folder / "nvidia-h200.json", H200, {"fprop": "1"}).add(row_for(Tile(256, 64, 32, 8, 4)))
    assert pick.usual_summation_order(GEOMETRY, "fprop", OPERANDS, H200) == (64, False)
    assert pick.pick(GEOMETRY, "fprop", OPERANDS, H200).BLOCK_K == 64


def test_a_measured_tile_that_does_not_fit_is_not_picked(folder: Path) -> None:
    Table(folder / "nvidia-h200.json", H200, {"fprop": "1"}).add(row_for(Tile(256, 256, 64, 8, 4)))
    tile = pick.pick(GEOMETRY, "fprop", OPERANDS, H200)
    assert fits.fits(tile, "fprop", 2, H200)


def test_measured_tiles_are_shipped(folder: Path) -> None:
    """Measured tiles count as shipped, so the tests compile and check them like the other tiles."""
    new = Tile(256, 128, 32, 8, 3)
    before = catalogue.shipped("fprop", OPERANDS)
    assert new not in before
    row = row_for(replace(new, SPLIT_K=4))
    Table(folder / "nvidia-h200.json", H200, {"fprop": "1"}).add(row)
    measured.everywhere.cache_clear()
    assert catalogue.shipped("fprop", OPERANDS) == [*before, new]
    assert new not in catalogue.shipped("fprop", Operands(4, 4))
    assert new not in catalogue.shipped("dgrad", OPERANDS)


def test_candidates_fit_and_hold_what_is_picked(folder: Path) -> None:
    for layer in select("rn50_c3_3x3,rn50_conv1,unet_up1,deepface_l4_local_9x9"):
        for operator in ("fprop", "dgrad", "wgrad"):
            shipped = search.candidates(layer, operator, "bfloat16", H200, grid=False)
            grid = search.candidates(layer, operator, "bfloat16", H200, grid=True)
            assert all(fits.fits(tile, operator, 2, H200) for tile in shipped + grid)
            assert len(set(grid)) == len(grid) > len(shipped)
            operands = search.request_of(layer, operator, "bfloat16", H200).operands
            assert pick.pick(layer.geometry, operator, operands, H200) in shipped


@pytest.mark.parametrize("batch", [1, 4, 128])
def test_candidates_for_a_local_layer_take_as_many_images_as_what_is_picked(batch: int, folder: Path) -> None:
    (layer,) = select("local_3x3_64_at_14")
    layer = replace(layer, case=replace(layer.case, batch=batch))
    for operator in ("fprop", "dgrad", "wgrad"):
        for grid in (False, True):
            found = search.candidates(layer, operator, "bfloat16", H200, grid)
            assert all(
                (catalogue.images(tile, operator) <= catalogue.FEW) == (batch <= catalogue.FEW) for tile in found
            )
            assert len(set(found)) == len(found) > 1


@here
def test_a_local_layer_is_tuned() -> None:
    (layer,) = select("local_3x3_64_at_14")
    problem = Problem.draw(layer.scaled_down(), "float32", torch.device("cpu"))
    few = [Tile(4, 16, 16, 4, 1), Tile(1, 16, 16, 4, 1)]
    row, refused = search.tune(problem, "fprop", few, INTERPRETER, lambda calls: dict.fromkeys(calls, 1.0))
    assert refused == []
    assert row is not None
    assert row["tried"] == 2


def test_a_gpu_that_no_table_serves_has_no_tuned_problem() -> None:
    """The H200's table serves an H100 of as many multiprocessors. The slice `tuning` then has nothing of it to do."""
    alike, other = (Gpu.of("sm_90", count, "NVIDIA H100") for count in (132, 114))
    assert len(tuning.tuned(alike, search.kernels())) == len(tuning.tuned(H200, search.kernels())) > 0
    assert tuning.tuned(other, search.kernels()) == set()
