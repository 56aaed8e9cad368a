"""Training steps in `bench.train`: what a step changes, and what its rows say."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.results import lost
from bench.train import measure, timing, training
from bench.train.data import Batch, placed
from bench.train.measure import apart, measured
from bench.train.models import MODELS
from bench.train.training import Training

pytestmark = pytest.mark.usefixtures("on_reference")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
UNET, LOCAL, DCGAN = MODELS["unet"], MODELS["local"], MODELS["dcgan"]
ENVIRONMENT = {"kernels": {"fprop": "a", "dgrad": "b", "wgrad": "c"}}


def test_both_implementations_start_with_the_same_weights() -> None:
    def started(implementation: str, seed: int) -> list[Tensor]:
        found = Training.of(UNET, UNET.tiny, implementation, CPU, seed, rate=0.1)
        return [parameter.detach() for parameter in found.losses[0].parameters()]

    torch_s, ours, others = started("torch", 0), started("triton", 0), started("torch", 1)
    assert all(torch.equal(a, b) for a, b in zip(torch_s, ours, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(torch_s, others, strict=True) if a.ndim == 4)


def test_each_part_of_a_gan_changes_its_own_network() -> None:
    trained = Training.of(DCGAN, DCGAN.tiny, "triton", CPU, 0, rate=0.1)
    assert trained.converted == 4
    makes, judges = (dict(trained.losses[0].named_children())[name] for name in ("generator", "discriminator"))
    judged, made = trained.optimizers
    for optimizer, network in ((judged, judges), (made, makes)):
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.1, 0.9)
        assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in network.parameters()}
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in makes.parameters() if each.ndim == 4)
    assert len(trained.step(*placed(DCGAN.draw(DCGAN.tiny, torch.Generator()), CPU))) == 2


def test_rows_of_a_step() -> None:
    theirs, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert (theirs["implementation"], mine["implementation"]) == ("torch", "triton")
    for row in (theirs, mine):
        named = {name: row[name] for name in ("what", "model", "how", "batch", "image", "dtype", "status", "together")}
        assert named == dict(
            what="step", model="local", how="eager", batch=8, image=[1, 8, 8], dtype="float32", status="ok", together=1
        )
        assert row["images_per_second"] == pytest.approx(8e6 / row["wall_us"]["median"], rel=1e-3)
        assert (row["step_us"], row["peak_bytes"], row["wall_us"]["runs"]) == (None, None, 2)
    assert (theirs["converted"], mine["converted"]) == (0, 3)
    assert "kernels" not in theirs
    assert mine["kernels"] == ENVIRONMENT["kernels"]
    assert theirs["first_losses"] == pytest.approx(mine["first_losses"], rel=1e-5)


def test_a_wrong_loss_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted in the forward pass of the converted layers: their results are 3 times as large."""
    convert = training.convert

    def wrong(model: nn.Module, implementation: str | None) -> int:
        found = convert(model, implementation)
        for layer in model.modules():
            if hasattr(layer, "implementation"):
                layer.register_forward_hook(lambda layer, operands, result: 3 * result)
        return found

    monkeypatch.setattr(training, "convert", wrong)
    theirs, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert (theirs["status"], mine["status"], "wall_us" in mine) == ("ok", "wrong", False)
    assert mine["reason"].startswith("the first step has the losses [")


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, float("nan")])
def test_a_wrong_gradient_gets_no_times(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the first step is right. The weights' gradients are not: those of all converted layers."""
    convert = training.convert

    def wrong(model: nn.Module, implementation: str | None) -> int:
        found = convert(model, implementation)
        for layer in model.modules():
            if hasattr(layer, "implementation"):
                layer.weight.register_hook(lambda gradient: factor * gradient)
        return found

    theirs, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert (theirs["status"], mine["status"]) == ("ok", "ok")
    assert mine["gradient_ratio"] == pytest.approx(1, rel=1e-4)
    monkeypatch.setattr(training, "convert", wrong)
    theirs, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert (theirs["status"], mine["status"], "wall_us" in mine) == ("ok", "wrong", False)
    assert mine["first_losses"] == pytest.approx(theirs["first_losses"], rel=1e-5)
    said = "the later step has the losses [nan]" if factor != factor else "the norm of a weight's gradient is "
    assert mine["reason"].startswith(said)


def test_a_graph_that_computes_nothing_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, which is eager, is right. The way of the later ones gives the losses of nothing."""
    way = training.WAYS["eager"]

    def broken(trained: Training, batch: Batch, device: torch.device) -> Any:
        step = way(trained, batch, device)
        return (lambda: [torch.zeros(())]) if trained.converted else step

    monkeypatch.setitem(training.WAYS, "eager", broken)
    _, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert mine["status"] == "wrong"
    assert mine["reason"].startswith("the later step has the losses [0.0]")


@pytest.mark.parametrize(
    ("theirs", "mine", "furthest"),
    [
        ([2.0, 4.0, 1.0], [2.2, 3.0, 1.0], 0.75),
        ([2.0, 4.0], [5.0, 3.0], 2.5),
        ([0.0, 1.0], [0.0, 1.0], 1.0),
        ([1.0, 1.0], [0.0, 9.0], 0.0),
        ([0.0], [2.0], 3.0),
        ([], [], 1.0),
    ],
)
def test_how_far_gradients_lie_apart(theirs: list[float], mine: list[float], furthest: float) -> None:
    assert measure.ratio(theirs, mine) == furthest


def test_a_gradient_of_nan_is_the_furthest() -> None:
    found = measure.ratio([1.0, 1.0], [float("nan"), 9.0])
    assert found != found


@pytest.mark.parametrize(
    ("losses", "wrong"),
    [([[1.0, 2.0], [1.019, 1.97]], False), ([[1.0, 2.0], [1.0, 2.05]], True), ([[1.0], [float("nan")]], True)],
)
def test_first_losses_may_lie_two_per_cent_apart(losses: list[list[float]], wrong: bool) -> None:
    rows = {
        name: {"first_losses": each, "later_losses": [1.0]}
        for name, each in zip(("torch", "triton"), losses, strict=True)
    }
    rows["triton"] |= {"gradient_ratio": 1.0, "later_losses": [1.09]}
    assert (apart(rows) is not None) == wrong
    rows["triton"]["later_losses"] = [1.11]
    assert apart(rows) is not None
    assert apart({"torch": rows["torch"], "triton": {}}) is None


def test_what_can_not_run_is_skipped_or_failed_and_the_other_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = measured(LOCAL, "graph", CPU, ENVIRONMENT)
    assert [(row["status"], row["reason"]) for row in graph] == [("skipped", "CUDA graphs need a GPU")] * 2
    absent = measured(replace(LOCAL, package="no_such_package"), "eager", CPU, ENVIRONMENT)
    assert {row["status"] for row in absent} == {"skipped"}
    assert "No module named 'no_such_package'" in absent[0]["reason"]

    def refuse(model: nn.Module, implementation: str | None) -> int:
        raise ValueError("1 of 3 convolutions can not be converted")

    monkeypatch.setattr(training, "convert", refuse)
    theirs, mine = measured(LOCAL, "eager", CPU, ENVIRONMENT)
    assert (theirs["status"], mine["status"]) == ("ok", "failed")
    assert mine["reason"] == "1 of 3 convolutions can not be converted"


def test_kernels_are_compiled_before_and_a_model_that_needs_data_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warmed: list[Any] = []

    def warmup(loss: nn.Module, *batch: Tensor) -> None:
        warmed.append((loss, batch))
        if len(warmed) == 1:
            raise RuntimeError("the model can not run on fake tensors")

    monkeypatch.setattr(training.tritonconv, "warmup", warmup)
    trained, batch = Training.of(DCGAN, DCGAN.tiny, "triton", CPU, 0, rate=0.1), (torch.ones(1),)
    trained.precompile(batch)
    assert warmed == [(loss, batch) for loss in trained.losses]
    assert "can not run on fake tensors" in capsys.readouterr().out


def test_a_lost_gpu_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timing.lost is lost
    monkeypatch.setattr(timing, "lost", lambda device: True)
    monkeypatch.setattr(measure, "ready", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(LOCAL, "eager", CPU, ENVIRONMENT)


def test_batches_lie_in_channels_last() -> None:
    batch: Batch = placed(UNET.draw(UNET.tiny, torch.Generator()), CPU)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in batch)
