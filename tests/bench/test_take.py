"""`python -m bench tune --take`: the winners in a record become rows of the table of the GPU that was measured."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from bench import kernel_identity, results
from bench.layers import select
from bench.run.contenders import Problem
from bench.tune import command, search
from tests.support.gpus import H200
from tests.support.measured_tables import empty_tables, forget
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.tiling import measured, pick
from tritonconv.tiling.tile import Tile

H100 = Gpu.of("sm_90", 132, "NVIDIA H100")
ENVIRONMENT = {
    "gpu": "NVIDIA H100",
    "architecture": "sm_90",
    "multiprocessors": 132,
    "torch": "2.11.0",
    "date": "2026-12-01",
}
NAME = "rn50_c3_3x3"
BEST, SECOND = Tile(128, 128, 64, 4, 3, BLOCK_B=8, BLOCK_H=4, BLOCK_W=4), Tile(128, 64, 64, 4, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from empty_tables(tmp_path, monkeypatch)


def row(operator: Any = "fprop", **fields: Any) -> dict[str, Any]:
    """Return a row of a record of tiles as it is now."""
    (layer,) = select(NAME)
    return {
        "layer": NAME,
        "pass": operator,
        "dtype": "bfloat16",
        "kernels": {operator: kernel_identity.names()[operator]},
        "key": list(search.key_of(layer, operator, "bfloat16", H100)),
        "tile": list(astuple(BEST)),
        "name": str(BEST),
        "microseconds": 48.5,
        "runner_up": str(SECOND),
        "margin": 1.5,
        "tried": 2,
        "times": {str(BEST): 48.5, str(SECOND): 72.75},
    } | fields


def written(path: Path, *rows: dict[str, Any], **about: Any) -> str:
    """Write a record of tiles to `path`, and return the path as text."""
    results.save(path, {"part": "tiles", "environment": ENVIRONMENT, "ceilings": {}, **about, "rows": rows})
    return str(path)


def take(*options: str) -> int:
    """Run `python -m bench tune --take` with these options, and return its exit status."""
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(["--take", *options]))


def test_winners_are_taken(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are picked from then on. Rows without times are left out."""
    untimed = {"layer": NAME, "pass": "wgrad", "dtype": "bfloat16", "status": "failed"}
    record = written(tmp_path / "records" / "tiles.json", row(), row("dgrad"), untimed)
    assert take(record) == 0
    table = json.loads((folder / "nvidia-h100.json").read_text())
    assert (table["gpu"], table["architecture"], table["multiprocessors"]) == ("NVIDIA H100", "sm_90", 132)
    kept = {name: row("dgrad")[name] for name in ("key", "tile", "name", "microseconds", "runner_up", "margin")}
    kept |= {"tried": 2, "layer": NAME, "kernel": kernel_identity.names()["dgrad"], "torch": "2.11.0"}
    assert table["rows"][0] == kept
    assert "2 tiles taken for the NVIDIA H100: 2 new." in capsys.readouterr().out
    forget()
    geometry, _, operands, _ = search.request_of(select(NAME)[0], "fprop", "bfloat16", H100)
    assert pick.pick(geometry, "fprop", operands, H100) == BEST
    assert pick.measured_on(geometry, "fprop", operands, H200) == "NVIDIA H100"


def test_taking_again_replaces(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "records" / "tiles.json", tmp_path / "elsewhere.json"
    take(written(path, row(), row("dgrad")), "--out", str(out))
    take(written(path, row(tile=list(astuple(SECOND))), row("dgrad")), "--out", str(out))
    assert "2 tiles taken for the NVIDIA H100: 1 in the place of others, 1 as before." in capsys.readouterr().out
    assert [each["tile"] for each in json.loads(out.read_text())["rows"]] == [list(astuple(t)) for t in (BEST, SECOND)]
    assert list(folder.glob("*.json")) == [out]


@pytest.mark.parametrize(
    ("fields", "about", "message"),
    [
        ({}, {"rehearsal": "a pretended GPU"}, "is no measurement on a GPU"),
        ({}, {"environment": ENVIRONMENT | {"gpu": None}}, "is no measurement on a GPU"),
        ({}, {"part": "layers"}, "holds no times of tiles"),
        ({"kernels": {"fprop": "other"}}, {}, f"{NAME} fprop bfloat16 was measured with other kernels"),
        ({"key": ["fprop", 2, 8]}, {}, f"{NAME} fprop bfloat16 is another problem now"),
        ({"layer": "no_such_layer"}, {}, "no such layer: no_such_layer"),
    ],
    ids=["rehearsal", "CPU", "part", "kernels", "key", "layer"],
)
def test_what_is_refused(
    fields: dict[str, Any], about: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    """If one row is refused, none is taken."""
    record = written(tmp_path / "records" / "tiles.json", row("dgrad"), row(**fields), **about)
    with pytest.raises(ValueError, match=message):
        take(record)
    assert list(folder.glob("*.json")) == []


def test_older_records_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="is older than --take"):
        take(str(results.RESULTS / "h200-tiles.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tiles of this size are for the interpreter")
def test_what_tuning_measures_can_be_taken(tmp_path: Path) -> None:
    """The row of a tuned problem has all fields of the rows above, in JSON too."""
    (layer,) = select("rn50_c5_1x1_s2_down")
    problem = Problem.draw(layer.scaled_down(), "float32", torch.device("cpu"))
    tiles = [Tile(16, 16, 16, 4, 1), Tile(32, 16, 16, 4, 1)]
    found, _ = search.tune(
        problem, "dgrad", tiles, INTERPRETER, lambda calls: dict(zip(calls, (2.0, 1.0), strict=True))
    )
    assert found is not None
    assert set(found) == set(row())
    assert (found["layer"], found["pass"], found["dtype"]) == (layer.name, "dgrad", "float32")
    assert found["kernels"] == {"dgrad": kernel_identity.names()["dgrad"]}
    written(tmp_path / "tiles.json", found)
    assert results.read(tmp_path / "tiles.json")["rows"] == [found]
    assert measured.key(problem.geometry, "dgrad", *found["key"][1:7]) == tuple(found["key"])
