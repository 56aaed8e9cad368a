"""The timed slices of `bench device`: what they time, in which order, what is current, and what is recorded."""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import results
from bench.device import contests, timed, training
from bench.device.contests import Unit, units
from bench.device.current import Evidence
from bench.device.machine import Machine
from bench.device.pretended import Pretended
from bench.device.profile import profile
from bench.device.schedule import Clock
from bench.device.work import Planned, Scene, Work
from bench.layers import SMOKE, select
from bench.results import Results, Row
from bench.run.contenders import operators_of

H200 = "NVIDIA H200"
BOTH = ("torch", "triton")


@cache
def now() -> dict[str, Any]:
    """Return the environment of a pretended H200."""
    return Pretended(H200).environment()


def scene(records: list[Results] = (), rows: str = "all", folder: Path = Path()) -> Scene:  # type: ignore[assignment]
    """Return a scene on a pretended H200 with these records as evidence."""
    machine = Pretended(H200)
    machine._environment = now()
    evidence = Evidence(tuple(records), machine.gpu, machine.environment())
    return Scene(machine, evidence, argparse.Namespace(rows=rows, out=folder, seed=0))


def test_smoke_rows_and_bfloat16_come_first() -> None:
    order = units(select("all"), ["bfloat16", "tf32"], BOTH)
    count = len(select("all"))
    assert [unit.of for unit in order[:4]] == ["fprop", "dgrad", "wgrad", "fprop"]
    assert {unit.layer.name for unit in order[: 3 * len(SMOKE)]} == set(SMOKE)
    assert [unit.of for unit in order[3 * count : 5 * count]] == ["forward"] * count + ["step"] * count
    assert [unit.dtype for unit in order] == ["bfloat16"] * 5 * count + ["tf32"] * 5 * count
    assert len({unit.name for unit in order}) == 10 * count


def test_every_layer_is_in_a_slice() -> None:
    """Layers whose weight varies and depthwise layers are timed beside other contenders than the rest."""
    here = scene(rows=contests.EVERY)
    dense, varying, torch_alone = (choose(here) for choose in (contests.dense, contests.varying, contests.torch_alone))
    names = [{unit.layer.name for unit in found} for found in (dense, varying)]
    assert names[0] & names[1] == set()
    assert names[0] | names[1] == {layer.name for layer in select(contests.EVERY)}
    assert {unit.layer.family for unit in varying} <= {*contests.VARYING, "depthwise"}
    assert {unit.contenders for unit in dense} == {BOTH, (*BOTH, "compile")}
    compiled = [(unit.layer.name in SMOKE, unit.of) for unit in dense if "compile" in unit.contenders]
    assert set(compiled) == {(True, "forward"), (True, "step")}
    assert {unit.contenders for unit in torch_alone} == {("torch",)}
    assert not {unit.layer.family for unit in torch_alone} & set(contests.VARYING)
    assert {unit.of for unit in torch_alone} == {"fprop", "dgrad", "wgrad"}
    local = [unit for unit in varying if unit.layer.family == "local"]
    assert all("torch" not in unit.contenders and "triton" in unit.contenders for unit in local)
    assert [unit.of for unit in contests.steps(here)] == ["step"] * 6
    assert next(unit.dtype for unit in contests.precision(here)) == "float16"


def test_torch_alone_begins_with_layers_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pass that has a committed time comes after those of a layer that has none."""
    known = {("rn50_c3_3x3", "fprop", "torch", "bfloat16"): None}
    monkeypatch.setattr(contests.estimates, "committed", lambda: known)
    found = [(unit.layer.name, unit.of) for unit in contests.torch_alone(scene(rows="rn50_c3_3x3,rn50_c5_3x3"))]
    assert len(found) == 6
    assert found[-1] == ("rn50_c3_3x3", "fprop")


def test_models_without_their_package_have_nothing_to_do() -> None:
    here = scene()
    machine: Any = here.machine
    machine.has = lambda package: package != "timm"
    missing = {each.name: each.missing for each in training.every(here)}
    assert (missing["resnet50 eager"], missing["unet eager"]) == (1, 1)
    assert {name: missing[name] for name in missing if name.startswith(("convnext", "efficientnet"))} == {
        f"{model} {how}": 0 for model in ("convnext_tiny", "efficientnet_b0") for how in ("eager", "graph", "compile")
    }
    assert Machine(torch.device("cpu")).has("torch")
    assert not Machine(torch.device("cpu")).has("no_such_package")


def row(unit: Unit, contender: str = "triton", **changed: Any) -> Row:
    """Return a row of this unit that is current on an H200. Each keyword argument sets the field of its name."""
    gpu = Pretended(H200).gpu
    about = {"layer": unit.layer.name, "pass": unit.of, "contender": contender, "dtype": unit.dtype, "status": "ok"}
    about |= {"cold": "read", "commit": now()["commit"]}
    if contender == "triton":
        about["kernels"] = results.kernels_of(operators_of(unit.of, unit.layer), now()["kernels"])
        about["tile"] = contests.tiles(unit.layer, unit.of, unit.dtype, gpu, True)
    return about | changed


def record(rows: list[Row], **environment: Any) -> Results:
    return {"part": "times", "environment": now() | environment, "ceilings": {}, "rows": rows}


(UNIT,) = [unit for unit in units(select("unet_up1"), ["bfloat16"], BOTH) if unit.of == "wgrad"]


def missing(*records: Results) -> int:
    """Return in how many processes the unit is still to be measured."""
    return contests.planned(scene([*records]), UNIT).missing


def both(number: int, **changed: Any) -> list[Row]:
    """Return the rows of a process of this number. The changes are to the row of triton."""
    return [row(UNIT, "torch", process=number), row(UNIT, process=number, **changed)]


def test_two_processes_make_a_unit_current() -> None:
    """They may be in one record or in two."""
    assert missing() == 2
    assert missing(record(both(1))) == 1
    assert missing(record([*both(1), *both(2)])) == 0
    assert missing(record(both(1)), record(both(1))) == 0
    assert missing(record([*both(1), *both(1)])) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"kernels": {"wgrad": "another"}},
        {"tile": {"wgrad": "another"}},
        {"cold": "write"},
        {"cold": None},
        {"status": "failed"},
        {"status": "wrong"},
        {"contender": "triton-nchw"},
    ],
)
def test_rows_that_are_not_current(changed: dict[str, Any]) -> None:
    assert missing(record([*both(1), *both(2, **changed)])) == 1


def test_each_contender_must_be_current() -> None:
    assert missing(record([*both(1), *both(2)[1:]])) == 1


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({"torch": "2.12.0"}, 2),
        ({"cudnn": 1}, 2),
        ({"triton": "3.7.1"}, 0),
        ({"gpu": "NVIDIA H100"}, 0),
        ({"multiprocessors": 120}, 0),
        ({"multiprocessors": 114}, 2),
        ({"architecture": "sm_100"}, 2),
        ({"architecture": None}, 2),
    ],
)
def test_where_results_count(environment: dict[str, Any], left: int) -> None:
    """On GPUs alike, and for torch with the same versions of torch and cuDNN."""
    assert missing(record([*both(1), *both(2)], **environment)) == left


def test_processes_of_two_commits_do_not_count_together() -> None:
    """The host's time is of the package. Two processes of an older commit are enough."""
    old = dict(commit="old")
    older = record(both(1, **old), commit="old", package="old")
    assert missing(older) == 2
    assert missing(older, record(both(1))) == 1
    assert missing(record([*both(1, **old), *both(2, **old)], commit="old", package="old")) == 0


def test_what_was_skipped_is_skipped_again_only_with_the_same_package() -> None:
    rows = [each | {"status": "skipped"} for each in (*both(1), *both(2))]
    assert missing(record(rows)) == 0
    assert missing(record(rows, package="old")) == 2


def test_what_failed_comes_last() -> None:
    """It may have lost the GPU, and would do so again before all others."""
    plan = contests.every(contests.dense)
    first, second, *_ = plan(scene())
    bad = row(first.unit, "torch", status="failed")
    again = plan(scene([record([bad])]))
    assert again[0].name == second.name
    assert again[-1].name == first.name
    assert plan(scene([record([bad], package="old")]))[0].name == first.name


class FakeSession:
    """A session that gives every pass the status `outcome`, or raises `outcome` if that is an error."""

    def __init__(self, outcome: str | Exception, now: dict[str, Any], after: Callable[[], None]) -> None:
        self.outcome, self.environment, self.after = outcome, now, after
        self.contenders: tuple[str, ...] = ()
        self.budget, self._problem, self._rows = 1.0, None, {}  # type: ignore[var-annotated]

    def as_measured(self, layer: Any) -> Any:
        return layer

    def record(self) -> dict[str, Any]:
        return {"environment": self.environment, "ceilings": {"bfloat16": 1.0}}

    def measure(self, layer: Any, of: str, dtype: str) -> list[Row]:
        self.after()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        about = {"layer": layer.name, "pass": of, "dtype": dtype, "status": self.outcome, "reason": "because"}
        return [about | {"contender": name} for name in self.contenders]


def of_one_layer(here: Scene) -> list[Planned]:
    """Return the five passes of the layer of a scene, without those that torch.compile compiles."""
    return [each for each in contests.every(contests.dense)(here) if "compile" not in each.unit.contenders]


def work(folder: Path, outcome: str | Exception, number: int = 1, seconds: float = 200, takes: float = 1) -> Work:
    """Return the work of a process on a layer with a session of `FakeSession`, whose passes take `takes` seconds."""
    here = scene(rows="rn50_conv1", folder=folder)
    machine: Any = here.machine
    found = FakeSession(outcome, machine.environment(), lambda: machine.advance("pass", takes))
    machine.session = lambda *_: found
    todo = [Planned(each.name, 3 - number, 1.0, each.kernels, each.unit) for each in of_one_layer(here)]
    return Work(here, Clock(seconds, machine.now), lambda: None, number, todo)


@pytest.mark.parametrize(
    ("outcome", "status", "rows", "stopped"),
    [
        ("ok", 0, 10, "the time was up"),
        ("skipped", 0, 10, "the time was up"),
        ("wrong", 1, 10, "the time was up"),
        ("failed", 1, 10, "the time was up"),
        (RuntimeError("illegal memory access"), 1, 2, "rn50_conv1 fprop bfloat16: illegal memory access"),
    ],
)
def test_the_status_of_what_was_timed(
    outcome: str | Exception, status: int, rows: int, stopped: str, tmp_path: Path
) -> None:
    """After the first process, the units remain for the second."""
    assert timed.run("layers", work(tmp_path, outcome)) == status
    found = results.load(tmp_path / timed.FILE)
    assert (len(found["rows"]), found["stopped"], found["complete"]) == (rows, stopped, False)
    assert len(found["remaining"]) == 5
    assert {each["process"] for each in found["rows"]} == {1}


def test_a_unit_within_which_the_process_is_ended_comes_last(tmp_path: Path) -> None:
    mine = work(tmp_path, "ok")
    mine.machine.session((), (), {}).after = lambda: sys.exit(143)
    with pytest.raises(SystemExit):
        timed.run("layers", mine)
    rows = results.load(tmp_path / timed.FILE)["rows"]
    assert [(each["pass"], each["status"], each["process"]) for each in rows] == [("fprop", "failed", 1)] * 2
    here = scene([record(rows)], rows="rn50_conv1")
    assert [each.unit.of for each in of_one_layer(here)][-1] == "fprop"


def test_the_second_process_completes_the_record(tmp_path: Path) -> None:
    """It finds the ceilings in the record, and measures with half the budget, too."""
    for number in (1, 2):
        mine = work(tmp_path, "ok", number)
        assert timed.run("layers", mine) == 0
        assert mine.machine.session((), (), {}).budget == 0.5
    found = results.load(tmp_path / timed.FILE)
    assert (found["complete"], found["remaining"], found["ceilings"]) == (True, [], {"bfloat16": 1.0})
    assert [each["process"] for each in found["rows"]] == [1] * 10 + [2] * 10


def test_the_first_process_leaves_time_for_the_second(tmp_path: Path) -> None:
    """Units take ten seconds and not one. Compilation takes at least five, and the start of a process six."""
    first = work(tmp_path, "ok", seconds=60, takes=10)
    assert timed.run("layers", first) == 0
    done = len(results.load(tmp_path / timed.FILE)["rows"]) // 2
    assert done > 0
    assert first.clock.left() >= 6 + 10 * done


def test_what_is_timed_is_compiled_before(tmp_path: Path) -> None:
    """The pass `forward` has a bias, which makes it another kernel than its operator without one."""
    here = scene()
    session: Any = SimpleNamespace(as_measured=lambda layer: layer)
    every = units(select("unet_up1"), ["bfloat16"], BOTH)
    launched = [plan.launches[0] for plan in timed.plans(session, every, here.machine.gpu)]
    found = {(each.kernel.__name__, each.arguments.get("bias_ptr") is not None) for each in launched}
    without = {(f"{operator}_tma_kernel", False) for operator in ("fprop", "dgrad", "wgrad")}
    assert found == without | {("dgrad_tma_kernel", True)}


def test_a_profile_names_what_ran() -> None:
    rows = profile(lambda: torch.arange(1_000.0).flip(0).sort().values, torch.device("cpu"))
    assert {"aten::flip", "aten::sort"} <= {row["name"] for row in rows}
    assert all(row["us"] > 0 for row in rows)


@pytest.mark.parametrize("runs", [2, 20])
def test_a_profile_is_of_one_call(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake profiler counts 3 microseconds of sorting and 5 of adding for each call. The longest comes first."""
    calls: list[None] = []

    class Profiler:
        def __init__(self, activities: Any) -> None:
            self.before = len(calls)

        def __enter__(self) -> "Profiler":
            return self

        def __exit__(self, *_: object) -> None: ...

        def key_averages(self) -> list[Any]:
            times = {"aten::sort": 3.0, "aten::add": 5.0, "nothing": 0.0}
            return [SimpleNamespace(key=key, self_cpu_time_total=us * self.calls()) for key, us in times.items()]

        def calls(self) -> int:
            return len(calls) - self.before

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    rows = profile(lambda: calls.append(None), torch.device("cpu"), runs)
    assert rows == [{"name": "aten::add", "us": 5.0}, {"name": "aten::sort", "us": 3.0}]
