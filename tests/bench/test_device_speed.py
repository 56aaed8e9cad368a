"""The parts of `python -m bench device` that time layers: what is timed, in which order, and what is recorded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import results
from bench.device.schedule import Clock
from bench.device.speed import Unit, measure_all, profile, stale, units
from bench.layers import SMOKE, Layer, select
from bench.lowering import offline
from bench.run.contenders import PASSES, operators_of
from bench.run.session import Session
from tritonconv import runtime
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan


def test_smoke_rows_and_bfloat16_come_first() -> None:
    order = units(select("all"), ["bfloat16", "tf32"])
    assert [unit.of for unit in order[:4]] == ["fprop", "dgrad", "wgrad", "fprop"]
    assert {unit.layer.name for unit in order[: 3 * len(SMOKE)]} == set(SMOKE)
    assert [unit.of for unit in order[168:280]] == ["forward"] * 56 + ["step"] * 56
    assert [unit.dtype for unit in order] == ["bfloat16"] * 280 + ["tf32"] * 280
    assert len({unit.name for unit in order}) == 560


HASHES = {"fprop": "1", "dgrad": "2", "wgrad": "3"}


def measured_row(unit: Unit, **changed: Any) -> dict[str, Any]:
    """Return a row of triton for this unit with status "ok", the kernels of `HASHES` and the tile {"a": "tile"}.

    It has no times. Each keyword argument sets the field of its name.
    """
    hashes = results.kernels_of(operators_of(unit.of, unit.layer), HASHES)
    about = {"layer": unit.layer.name, "pass": unit.of, "contender": "triton", "dtype": unit.dtype}
    return {**about, "status": "ok", "kernels": hashes, "tile": {"a": "tile"}, **changed}


def test_only_what_changed_is_stale() -> None:
    everything = units(select("unet_up1,rn50_conv1"), ["bfloat16"])

    def names(known: list[dict[str, Any]] | None, hashes: dict[str, str] = HASHES, tile: str = "tile") -> set[str]:
        old = None if known is None else {"rows": known}
        return {f"{u.layer.name} {u.of}" for u in stale(everything, old, hashes, lambda _: {"a": tile})}

    rows = [measured_row(unit) for unit in everything]
    both = [f"{layer} {{}}".format for layer in ("unet_up1", "rn50_conv1")]
    assert names(rows) == set()
    assert names(None) == names([]) == {f(of) for f in both for of in PASSES}
    assert names(rows, HASHES | {"wgrad": "new"}) == {f(of) for f in both for of in ("wgrad", "step")}
    # One of the two layers is transposed: its forward pass is dgrad, not fprop.
    of_fprop = {f(of) for f in both for of in ("fprop", "step")} | {"rn50_conv1 forward"}
    assert names(rows, HASHES | {"fprop": "new"}) == of_fprop
    assert names(rows, tile="another") == names(None)
    assert names(rows[1:]) == {f"{everything[0].layer.name} fprop"}
    wrong = measured_row(everything[0], status="wrong", tile=None, kernels=None)
    assert names([wrong, *rows[1:]]) == {f"{everything[0].layer.name} fprop"}


class FakeSession:
    """A session that gives every pass the status `outcome`, or raises `outcome` if that is an error."""

    def __init__(self, outcome: str | Exception) -> None:
        self.outcome = outcome
        self.precompiled: list[Any] = []

    def record(self) -> dict[str, Any]:
        return {"environment": {"gpu": "NVIDIA Test"}, "ceilings": {}}

    def precompile(self, passes: Any) -> int:
        self.precompiled = list(passes)
        return len(self.precompiled)

    def measure(self, layer: Layer, of: str, dtype: str) -> list[dict[str, Any]]:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        row = {"layer": layer.name, "pass": of, "contender": "triton", "dtype": dtype, "status": self.outcome}
        return [row | {"reason": "because"}]


@pytest.mark.parametrize(
    ("outcome", "status", "done", "stopped"),
    [
        ("ok", 0, 5, None),
        ("skipped", 0, 5, None),
        ("wrong", 1, 5, None),
        ("failed", 1, 5, None),
        (RuntimeError("illegal memory access"), 1, 0, "rn50_conv1 fprop bfloat16: illegal memory access"),
    ],
)
def test_the_status_of_what_was_timed(
    outcome: str | Exception, status: int, done: int, stopped: str | None, tmp_path: Path
) -> None:
    session: Any = FakeSession(outcome)
    todo = units(select("rn50_conv1"), ["bfloat16"])
    kept: list[None] = []
    assert measure_all(session, todo, tmp_path / "layers.json", Clock(100), lambda: kept.append(None)) == status
    record = results.load(tmp_path / "layers.json")
    assert (len(record["rows"]), record["stopped"], record["complete"]) == (done, stopped, stopped is None)
    assert len(session.precompiled) == 5
    assert kept == [None]


def test_what_is_timed_is_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass `forward` has a bias, which makes it another kernel than its operator without one."""
    planned: list[Plan] = []
    monkeypatch.setattr(offline, "precompile", lambda plans, device: planned.extend(plans))
    monkeypatch.setattr(runtime, "gpu_of", lambda device: Gpu.of("sm_90", 132))
    here: Any = SimpleNamespace(
        as_measured=lambda layer: layer, contenders=["torch", "triton"], device=torch.device("cuda")
    )
    (layer,) = select("unet_up1")
    Session.precompile(here, [(layer, of, "bfloat16") for of in PASSES])
    launched = [plan.launches[0] for plan in planned]
    found = {(each.kernel.__name__, each.arguments.get("bias_ptr") is not None) for each in launched}
    without = {(f"{operator}_tma_kernel", False) for operator in ("fprop", "dgrad", "wgrad")}
    assert found == without | {("dgrad_tma_kernel", True)}


def test_time_that_is_up_is_no_failure(tmp_path: Path) -> None:
    session: Any = FakeSession("ok")
    assert measure_all(session, units(select("smoke"), ["tf32"]), tmp_path / "a.json", Clock(1), lambda: None) == 0
    record = results.load(tmp_path / "a.json")
    assert (record["rows"], record["stopped"], len(record["remaining"])) == ([], "the time was up", 70)


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
