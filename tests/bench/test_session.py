"""A run of the benchmark: small layers on a CPU, layers at a batch, what is skipped, and the options."""

from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import conftest
from bench.layers import read, select
from bench.report import changes, publish
from bench.results import evidence, merged, save
from bench.run import limits, roof, session
from bench.run.contenders import CONTENDERS, PASSES
from bench.run.roof import Measured
from tests.bench.made_up import CEILINGS

CPU = torch.device("cpu")
REACHED = Measured(CEILINGS, {}, {})


def test_a_session_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are scaled down, and the record says so. Every contender has a row, also if it raises or has no layer."""
    monkeypatch.setattr(roof, "ceilings", lambda *_: REACHED)
    here = session.Session(CPU, ["torch", "reference"], ["float32"])
    assert here.record()["rehearsal"] == "on a CPU, layers scaled down"
    conv, local = select("rn50_c3_3x3,deepface_l4_local_9x9")
    rows = here.measure(conv, "fprop", "float32")
    assert [(row["contender"], row["status"]) for row in rows] == [("torch", "ok"), ("reference", "ok")]
    assert rows[0]["image"][:2] == [2, 32]
    assert here.measure(conv, "fprop", "float32") is rows
    found = {row["contender"]: row for row in here.measure(local, "step", "float32")}
    assert {name: row["status"] for name, row in found.items()} == {
        "torch": "skipped",
        "reference": "ok",
        "grouped": "ok",
        "loop": "ok",
    }
    assert found["torch"]["reason"] == "torch has no locally connected layer"
    assert found["reference"]["weight"] == [2, 2, 16, 16, 3, 3]

    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(session, "measure", broken)
    failed = here.measure(conv, "dgrad", "float32")
    assert [(row["status"], row["reason"]) for row in failed] == [("failed", "RuntimeError")] * 2
    assert len(here.rows()) == 8
    assert {row["commit"] for row in here.rows()} == {here.environment["commit"]}


def test_a_session_at_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers keep their channels and sizes, also on a CPU, and the record is no rehearsal."""
    monkeypatch.setattr(roof, "ceilings", lambda *_: REACHED)
    here = session.Session(CPU, ["torch", "reference"], ["float32"], batch=1)
    record = here.record()
    assert "rehearsal" not in record
    assert record["batch"] == 1
    assert set(record["environment"]["load"]) == {"start", "end"}
    (layer,) = select("rn50_c5_3x3")
    rows = here.measure(layer, "forward", "float32")
    assert [(row["contender"], row["status"]) for row in rows] == [("torch", "ok"), ("reference", "ok")]
    assert [row["image"] for row in rows] == [[1, 512, 7, 7]] * 2
    assert all(row["wall_us"]["runs"] >= 5 for row in rows)

    monkeypatch.setattr(limits, "MOST_BYTES", 1_000_000)
    timed, skipped = here.measure(layer, "step", "float32")
    assert (timed["contender"], timed["status"]) == ("torch", "ok")
    assert (skipped["contender"], skipped["status"], skipped["image"]) == ("reference", "skipped", [1, 512, 7, 7])
    assert skipped["reason"] == "stores 0.0114 GB of patches and operands; at most 0.001 GB on a CPU"


def test_runs_at_a_batch_stay_apart(tmp_path: Path) -> None:
    """They are neither merged, nor compared, nor published with layers at their own batch."""
    environment = {"gpu": "G", "cpu": "C", "date": "2026"}
    own: dict[str, Any] = {"environment": environment, "ceilings": {}, "rows": []}
    one = own | {"batch": 1}
    with pytest.raises(ValueError, match="different batches cannot be merged"):
        merged([own, one])
    with pytest.raises(ValueError, match="different batches can not be compared"):
        changes.differences(one, own)
    with pytest.raises(ValueError, match="a run with --batch 1 can not be published"):
        publish.publish(one, tmp_path)
    save(tmp_path / "cpu.json", one)
    assert evidence(tmp_path) == []
    assert not merged([one, one])["rows"]


def test_what_is_too_much_for_a_cpu() -> None:
    """At batch 1, only the steps of loops over hundreds of positions. With more images, also patches."""
    at_one = [layer.at_batch(1) for layer in read()]
    refused = {
        (contender, of, layer.name)
        for contender in CONTENDERS
        for of in PASSES
        for layer in at_one
        if limits.needs_too_much(contender, layer, of, 4)
    }
    large = [layer.name for layer in read() if layer.name.startswith("deepface")]
    assert refused == {("loop", "step", name) for name in large}
    assert len(large) == 4
    layer = select("vgg16_conv1_2")[0].at_batch(16)
    assert limits.needs_too_much("reference", layer, "forward", 4) is None
    assert limits.needs_too_much("reference", layer, "step", 4)
    assert limits.needs_too_much("torch", layer, "step", 4) is None


def test_who_stores_patches() -> None:
    """One grouped convolution unfolds the image for locations only. Samples are folded into its groups."""
    local, sample = (
        select(name)[0].at_batch(512) for name in ("deepface_l4_local_9x9", "stylegan2_modulated_512_at_32")
    )
    for layer, expected in (
        (local, {"reference", "unfold-compile", "grouped"}),
        (sample, {"reference", "unfold-compile"}),
    ):
        assert {name for name in CONTENDERS if limits.needs_too_much(name, layer, "fprop", 4)} == expected


def test_a_gpu_loops_over_few_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over thousands of positions would take most of a run's time on a GPU. A CPU runs it."""
    here = session.Session(CPU, ["torch"], ["float32"], batch=1, ceilings=REACHED)
    few, many, sample = select("local_3x3_64_at_14,deepface_l4_local_9x9,stylegan2_modulated_512_at_32")
    assert here.refused("loop", many, "fprop", "float32") is None
    here.device = torch.device("cuda")
    assert (
        here.refused("loop", many, "fprop", "float32")
        == "a loop over 3025 positions takes too long; at most 256 on a GPU"
    )
    assert here.refused("loop", few, "fprop", "float32") is None
    for layer in (few, many, sample):
        assert not [name for name in CONTENDERS if name != "loop" and here.refused(name, layer, "step", "float32")]


def test_ceilings_are_measured_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process of the run takes those of the first, with what the first says of them."""
    measured: list[Any] = []

    def ceilings(*about: Any) -> Measured:
        measured.append(about)
        return Measured(CEILINGS, {"float32": "8 x 8 x 8"}, {"float32": 1980.0})

    monkeypatch.setattr(roof, "ceilings", ceilings)
    first = session.Session(CPU, ["torch"], ["float32"])
    later = session.Session(CPU, ["torch"], ["float32"], ceilings=first.measured)
    assert measured == [(["float32"], CPU)]
    for each in (first.record(), later.record()):
        assert each["ceilings"] == CEILINGS
        assert (each["ceilings_from"], each["ceiling_clocks"]) == ({"float32": "8 x 8 x 8"}, {"float32": 1980.0})


def test_only_a_small_run_does_not_compile_unfold_views() -> None:
    (layer,) = select("kpn_5x5_8_to_1_at_128")
    small = session.Session(CPU, ["torch"], ["float32"], ceilings=REACHED)
    rows = small.measure(layer, "dgrad", "float32")
    assert [(row["contender"], row["status"]) for row in rows] == [("torch", "skipped"), ("reference", "ok")]
    assert rows[1]["weight"] == [2, 2, 2, 1, 8, 3, 3]
    real = session.Session(CPU, ["torch"], ["float32"], batch=1, ceilings=REACHED)
    rows = real.measure(layer, "dgrad", "float32")
    assert [(row["contender"], row["status"]) for row in rows] == [
        ("torch", "skipped"),
        ("reference", "ok"),
        ("unfold-compile", "skipped"),
    ]


@pytest.mark.parametrize(("given", "batch"), [((), None), (("--batch", "4"), 4)])
def test_options_of_the_benchmark(given: tuple[str, ...], batch: int | None) -> None:
    config = options(*given)
    conftest.pytest_configure(config)
    assert config.getoption("--batch") == batch


@pytest.mark.parametrize(
    ("given", "message"),
    [("--batch 0", "--batch 0: there is at least 1 image"), ("--passes up,step", "--passes up: there are only fprop")],
)
def test_wrong_options_of_the_benchmark(given: str, message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message):
        conftest.pytest_configure(options(*given.split()))


def options(*given: str) -> Any:
    """A pytest config with the benchmark's options, parsed from a command line."""
    parser = ArgumentParser()
    conftest.pytest_addoption(SimpleNamespace(getgroup=lambda _: SimpleNamespace(addoption=parser.add_argument)))  # type: ignore[arg-type]
    found = parser.parse_args(given)
    return SimpleNamespace(getoption=lambda name: getattr(found, name.removeprefix("--")), option=SimpleNamespace())
