"""The command `python -m bench train`: units, the time for them, the record, the tables and the exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device.schedule import Clock
from bench.train import command, run, table
from bench.train.models import MODELS
from bench.train.run import Unit, done, units
from bench.train.training import WAYS

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PACKAGED = [name for name, model in MODELS.items() if model.package]


def test_units_come_in_the_order_of_their_value() -> None:
    names = [unit.name for unit in units(GPU)]
    small = ["unet", "local", "dcgan"]
    first = [
        "resnet50 eager",
        "resnet50 graph",
        *[f"{name} {how}" for name in small for how in ("eager", "graph", "loss")],
    ]
    assert names[: len(first)] == first
    assert names[-len(MODELS) :] == [f"{name} compile" for name in MODELS]
    assert len(set(names)) == len(names) == len(MODELS) * len(WAYS) + len(small)
    assert {unit.steps for unit in units(GPU) if unit.how == "loss"} == {200}
    assert not any(unit.how == "loss" for unit in units(GPU, steps=0))
    assert all(unit.seconds > 0 for device in (CPU, GPU) for unit in units(device))


def step_rows(unit: Unit, **changed: Any) -> list[dict[str, Any]]:
    about = {"what": "step", "model": unit.model, "how": unit.how, "status": "ok", "kernels": {}}
    return [about | {"implementation": name} | changed for name in ("torch", "triton")]


def loss_rows(unit: Unit, **changed: Any) -> list[dict[str, Any]]:
    about = {"what": "loss", "model": unit.model, "how": "eager", "status": "ok", "curve": "loss"}
    keys = [(name, seed) for seed in (0, 1) for name in ("torch", "triton")]
    return [
        about | {"implementation": name, "seed": seed, "losses": [1.0 - 0.1 * seed] * unit.steps} | changed
        for name, seed in keys
    ]


STEP, LOSS = Unit("local", "eager", 10.0), Unit("local", "loss", 10.0, steps=20)


def test_what_is_known_is_not_repeated() -> None:
    rows, curves = step_rows(STEP), loss_rows(LOSS)
    assert done(STEP, [*curves, *rows])
    assert done(LOSS, [*curves, *rows])
    for unit, mine, other in ((STEP, rows, curves), (LOSS, curves, rows)):
        assert not done(unit, other)
        for n in range(len(mine)):
            assert not done(unit, [*mine[:n], *mine[n + 1 :], *other])
    assert not done(STEP, step_rows(STEP, status="failed"))
    assert not done(STEP, step_rows(Unit("local", "graph", 1.0)))
    assert not done(STEP, step_rows(Unit("unet", "eager", 1.0)))
    assert not done(LOSS, loss_rows(Unit("local", "loss", 1.0, steps=10)))


class Measured:
    """Takes the place of `run.rows_of`: a unit takes `seconds[name]` of the clock, or raises what is there instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float | Exception) -> None:
        self.now, self.seconds, self.begun, self.kept = 0.0, seconds, [], 0
        self.begun: list[str] = []
        monkeypatch.setattr(run, "rows_of", self.rows_of)

    def rows_of(self, unit: Unit, device: torch.device, environment: dict[str, Any]) -> list[dict[str, Any]]:
        self.begun.append(unit.name)
        taken = self.seconds.get(f"{unit.model}_{unit.how}", unit.seconds)
        if isinstance(taken, Exception):
            raise taken
        self.now += taken
        return loss_rows(unit) if unit.how == "loss" else step_rows(unit)

    def keep(self) -> None:
        self.kept += 1

    def run(self, path: Path, seconds: float, chosen: list[Unit], known: Any = ()) -> int:
        return run.run(path, CPU, Clock(seconds, lambda: self.now), self.keep, known, chosen)


THREE = [Unit("unet", "eager", 30.0), Unit("unet", "graph", 50.0), Unit("local", "loss", 20.0, steps=20)]


def test_no_unit_is_begun_that_may_not_end_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Measured(monkeypatch)
    assert fake.run(tmp_path / "a.json", 60.0, THREE) == 0
    assert (fake.begun, fake.kept) == (["unet eager", "local loss"], 2)
    record = results.read(tmp_path / "a.json")
    assert (record["part"], record["remaining"], record["complete"]) == ("training", ["unet graph"], False)
    assert (record["stopped"], len(record["rows"])) == ("the time was up", 6)
    assert (record["ceilings"], "rehearsal" in record) == ({}, True)
    assert record["environment"]["torch"] == torch.__version__


def test_estimates_grow_if_a_unit_took_longer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first unit takes twice its estimate, so the last needs 40 seconds, and 30 are left."""
    fake = Measured(monkeypatch, unet_eager=60.0)
    fake.run(tmp_path / "a.json", 90.0, THREE)
    assert fake.begun == ["unet eager"]
    again = Measured(monkeypatch, unet_eager=60.0)
    again.run(tmp_path / "b.json", 100.0, THREE)
    assert again.begun == ["unet eager", "local loss"]


def test_all_is_done_if_time_suffices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Measured(monkeypatch)
    assert fake.run(tmp_path / "a.json", 100.0, THREE) == 0
    assert fake.begun == [unit.name for unit in THREE]
    assert fake.kept == 2  # a graph needs no other kernels than eager steps
    assert results.read(tmp_path / "a.json")["complete"]
    again = Measured(monkeypatch)
    assert again.run(tmp_path / "b.json", 100.0, THREE, results.read(tmp_path / "a.json")["rows"]) == 0
    assert (again.begun, results.read(tmp_path / "b.json")["complete"]) == ([], True)


def test_a_record_is_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first call ends after one good unit and one that failed. The second call replaces what failed."""
    first = Measured(monkeypatch)
    monkeypatch.setattr(run, "rows_of", lambda unit, *_: step_rows(unit, **FAILED if unit.how == "graph" else {}))
    assert first.run(tmp_path / "a.json", 100.0, THREE[:2]) == 1
    assert [row["status"] for row in results.read(tmp_path / "a.json")["rows"]] == ["ok", "ok", "failed", "failed"]
    fake = Measured(monkeypatch)
    assert fake.run(tmp_path / "a.json", 100.0, THREE) == 0
    assert fake.begun == ["local loss", "unet graph"]  # what failed is the last
    record = results.read(tmp_path / "a.json")
    assert {row["status"] for row in record["rows"]} == {"ok"}
    assert [(row["model"], row["how"]) for row in (*record["rows"][:2], *record["rows"][-2:])] == [
        ("unet", how) for how in ("eager", "eager", "graph", "graph")
    ]
    assert (len(record["rows"]), record["complete"], record["remaining"]) == (8, True, [])


FAILED = {"status": "failed", "reason": "no memory"}


def test_a_lost_gpu_stops_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Measured(monkeypatch, unet_graph=RuntimeError("illegal memory access"))
    assert fake.run(tmp_path / "a.json", 1000.0, THREE) == 1
    assert fake.begun == ["unet eager", "unet graph"]
    record = results.read(tmp_path / "a.json")
    assert record["stopped"] == "unet graph: illegal memory access"
    assert [(row["how"], row["status"]) for row in record["rows"]] == [
        *[("eager", "ok")] * 2,
        *[("graph", "failed")] * 2,
    ]
    assert "1 of 3 units measured: unet graph: illegal memory access" in capsys.readouterr().out
    again = Measured(monkeypatch)
    assert again.run(tmp_path / "a.json", 1000.0, THREE) == 0
    assert again.begun == ["local loss", "unet graph"]  # what lost the GPU is the last
    assert {row["status"] for row in results.read(tmp_path / "a.json")["rows"]} == {"ok"}


@pytest.mark.parametrize("unit", THREE)
def test_a_unit_that_took_too_long_comes_last_in_the_next_call(
    unit: Unit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process is ended within it. In all later calls that would happen again, before any other unit."""
    path, fake = tmp_path / "a.json", Measured(monkeypatch)
    monkeypatch.setattr(run, "rows_of", lambda *_: sys.exit(143))
    with pytest.raises(SystemExit):
        fake.run(path, 1000.0, [unit])
    rows = results.read(path)["rows"]
    assert {(row["status"], row["reason"]) for row in rows} == {("failed", "the process ended within it")}
    assert "the process ended within it" in table.text(results.read(path))
    for file, known in ((path, []), (tmp_path / "b.json", rows)):
        again = Measured(monkeypatch)
        assert again.run(file, 1000.0, THREE, known) == 0
        assert again.begun == [*(each.name for each in THREE if each != unit), unit.name]
        assert {row["status"] for row in results.read(file)["rows"]} == {"ok"}


def test_a_model_without_its_package_takes_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(MODELS["unet"]), "missing", lambda model: "no package")
    path = tmp_path / "a.json"
    assert run.run(path, CPU, Clock(1.0), lambda: None, chosen=[Unit("resnet50", "eager", 60.0)]) == 0
    record = results.read(path)
    assert [(row["status"], row["reason"]) for row in record["rows"]] == [("skipped", "no package")] * 2
    assert record["complete"]


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        (step_rows(STEP), 0, ""),
        (step_rows(STEP, status="skipped", reason="no GPU"), 0, ""),
        (step_rows(STEP, status="failed", reason="no memory"), 1, "FAILED: local eager torch: no memory"),
        (step_rows(STEP, status="wrong", reason="off"), 1, "WRONG: local eager torch: off"),
        (loss_rows(LOSS), 0, ""),
        (loss_rows(LOSS)[:3] + loss_rows(LOSS, losses=[2.0] * 20)[3:], 1, "WRONG: local: the loss curves (loss)"),
    ],
)
def test_the_exit_status(
    rows: list[dict[str, Any]], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.said({"rows": rows, "stopped": None, "remaining": []}, 1) == status
    out = capsys.readouterr().out
    assert said in out
    assert ("WRONG" in out or "FAILED" in out) == bool(said)


def timed(implementation: str, rate: float, peak: int | None) -> dict[str, Any]:
    about = {"what": "step", "model": "unet", "how": "graph", "batch": 16, "status": "ok"}
    return about | {"implementation": implementation, "images_per_second": rate, "peak_bytes": peak}


def test_tables_by_hand() -> None:
    failed = timed("triton", 0.0, None) | {"how": "compile", "status": "failed", "reason": "no memory"}
    skipped = [
        timed(name, 0.0, None) | {"model": "resnet50", "status": "skipped", "reason": "no torchvision"}
        for name in ("torch", "triton")
    ]
    alone = timed("torch", 1500.0, 10**9) | {"how": "compile"}
    steps = [timed("torch", 1000.0, 2_345_000_000), timed("triton", 1250.0, 10**10), alone, failed, *skipped]
    record = {"rows": [*steps, *loss_rows(LOSS)]}
    assert table.markdown(record) == "\n".join(
        [
            "| model | way | batch | torch, images/s | ours, images/s | ours / torch | torch, GB | ours, GB |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| unet | graph | 16 | 1000 | 1250 | 1.25 | 2.35 | 10.00 |",
            "| unet | compile | 16 | 1500 | - | - | 1.00 | - |",
            "",
            "| model | loss | between implementations | between seeds | agree |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| local | loss | 0 | 0.1 | yes |",
            "",
            "- unet, compile, triton: failed. no memory",
            "- resnet50, graph, torch and triton: skipped. no torchvision",
        ]
    )
    assert "agree" not in table.markdown({"rows": steps})
    assert "**no**" in table.markdown({"rows": [*loss_rows(LOSS)[:3], *loss_rows(LOSS, losses=[2.0] * 20)[3:]]})
    assert "1250" in table.text(record)
    assert "no torchvision" in table.text(record)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.usefixtures("on_reference")
def test_the_command_trains_tiny_models_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the small version that needs no GPU: every small model, and all curves."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "training.json"
    status = command.main(arguments("--models", "unet", "local", "dcgan", "--steps", "12", "--json", str(path)))
    record, said = results.read(path), capsys.readouterr()
    assert (status, record["complete"], record["part"]) == (0, True, "training"), said.out
    steps = [row for row in record["rows"] if row["what"] == "step"]
    assert {(row["model"], row["how"], row["status"]) for row in steps} == {
        (name, "eager", "ok") for name in ("unet", "local", "dcgan")
    }
    assert sum(row["what"] == "loss" for row in record["rows"]) == 4 * 4
    assert "their times are no results" in said.err
    assert said.out.count("yes") == 4


def test_the_command_s_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen: list[list[str]] = []

    def fake_run(path: Path, device: torch.device, clock: Clock, keep: Callable[[], None], chosen_units: Any) -> int:
        chosen.append([unit.name for unit in chosen_units])
        results.save(path, {"environment": {}, "ceilings": {}, "rows": []})
        return 7

    monkeypatch.setattr(command, "run", lambda *given, chosen: fake_run(*given, chosen))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(arguments("--models", "unet", "--ways", "compile")) == 7
    command.main(arguments("--models", "unet", "resnet50", "--steps", "0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command.main(arguments("--models", "resnet50"))
    assert chosen == [
        ["unet loss", "unet compile"],
        ["resnet50 eager", "unet eager"],
        ["resnet50 eager", "resnet50 graph", "resnet50 compile"],
    ]
    with pytest.raises(ValueError, match="--steps must not be negative"):
        command.main(arguments("--steps", "-1"))
