"""Loss curves in `bench.train`: that the models learn, and when two implementations agree."""

from collections.abc import Callable
from functools import cache
from math import inf, nan, sqrt
from typing import Any

import pytest
import torch
from torch import nn

from bench.train import curves, data, training
from bench.train.curves import Agreement, agreements, distance, drawn, learnt, means
from bench.train.models import MODELS, Model, Size

pytestmark = pytest.mark.usefixtures("on_reference")
CPU = torch.device("cpu")
ENVIRONMENT = {"kernels": {"fprop": "a", "dgrad": "b", "wgrad": "c"}}
# How many steps the tiny models train here, which suffice to notice a wrong gradient.
LEARNING = {"unet": 40, "local": 60, "dcgan": 40}


def test_curves_are_compared_by_the_means_of_ten_parts() -> None:
    assert means([float(n) for n in range(40)]) == [1.5 + 4 * n for n in range(10)]
    assert means([3.0, 5.0]) == [3.0, 5.0]
    assert [len(means([1.0] * steps)) for steps in (9, 10, 15, 200)] == [9, 10, 10, 10]
    assert means([0.0] * 12 + [1.0] * 3)[-2:] == [1.0, 1.0]  # steps 12 and 13, and 13 to 15: no step is left out


def test_the_distance_of_curves_by_hand() -> None:
    """Of ten parts, one differs by 3 and one by 4: the RMS is sqrt((9 + 16) / 10)."""
    flat = [1.0] * 20
    other = [1.0] * 4 + [4.0] * 2 + [1.0] * 10 + [-3.0] * 2 + [1.0] * 2
    assert distance(flat, other) == pytest.approx(sqrt(2.5))
    assert distance(flat, [1.5, 0.5] * 10) == 0.0  # noise from step to step does not count


def rows(**losses: list[float]) -> list[dict[str, Any]]:
    """Return rows of a model "m" with these curves, by implementation and seed: torch0, torch1, triton0, triton1."""
    about = {"what": "loss", "model": "m", "curve": "loss", "status": "ok"}
    return [
        about | {"implementation": name[:-1], "seed": int(name[-1]), "losses": losses[name]} for name in sorted(losses)
    ]


# The seeds of torch lie 0.5 apart.
TORCH = {"torch0": [2.0] * 10, "torch1": [2.5] * 10}


@pytest.mark.parametrize(
    ("triton0", "triton1", "apart", "agree"),
    [
        ([2.0] * 10, [2.5] * 10, 0.0, True),
        ([2.4] * 10, [2.6] * 10, 0.4, True),
        ([2.0] * 10, [2.0] * 10, 0.5, True),
        ([2.0] * 10, [3.1] * 10, 0.6, False),
        ([1.4] * 10, [2.5] * 10, 0.6, False),
        ([2.0] * 5 + [4.0] * 5, [2.5] * 10, sqrt(2.0), False),
    ],
)
def test_implementations_agree_if_they_are_no_further_apart_than_seeds(
    triton0: list[float], triton1: list[float], apart: float, agree: bool
) -> None:
    (found,) = agreements(rows(**TORCH, triton0=triton0, triton1=triton1))
    assert (found.model, found.curve, found.agree) == ("m", "loss", agree)
    assert found.between_implementations == pytest.approx(apart)
    assert found.between_seeds == pytest.approx(0.5)


@pytest.mark.parametrize("place", ["triton0", "triton1", "torch0", "torch1"])
def test_curves_with_nan_do_not_agree(place: str) -> None:
    equal = {**TORCH, "triton0": TORCH["torch0"], "triton1": TORCH["torch1"]}
    (found,) = agreements(rows(**equal | {place: [2.0] * 9 + [nan]}))
    assert not found.agree


def test_curves_are_compared_only_if_all_four_are_there() -> None:
    every = rows(**TORCH, triton0=[2.0] * 10, triton1=[2.0] * 10)
    assert len(agreements(every)) == 1
    for n in range(4):
        assert agreements([*every[:n], *every[n + 1 :]]) == []
    assert agreements([every[0] | {"status": "failed", "curve": None}, *every[1:]]) == []
    assert agreements([every[0] | {"losses": [2.0] * 11}, *every[1:]]) == []
    assert agreements([{"what": "step", "status": "ok"}]) == []


@cache
def torch_s(name: str, seed: int) -> dict[str, list[float]]:
    """Return the curves of torch, which several tests compare with."""
    return learnt(MODELS[name], MODELS[name].tiny, "torch", CPU, seed, LEARNING[name])


def found_agreements(
    name: str, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[nn.Module], object]
) -> list[Agreement]:
    """Return the agreements of a tiny model's curves, after `spoil` was called for each converted layer."""
    convert = training.convert
    for seed in curves.SEEDS:
        torch_s(name, seed)

    def remembered(model: Model, size: Size, implementation: str, device: torch.device, seed: int, steps: int) -> Any:
        if implementation == "torch":
            return torch_s(name, seed)
        return learnt(model, size, implementation, device, seed, steps)

    def spoilt(model: nn.Module, implementation: str | None) -> int:
        found = convert(model, implementation)
        for layer in model.modules():
            if hasattr(layer, "implementation"):
                spoil(layer)
        return found

    monkeypatch.setattr(training, "convert", spoilt)
    monkeypatch.setattr(curves, "learnt", remembered)
    return agreements(curves.curves(MODELS[name], CPU, LEARNING[name], ENVIRONMENT))


@pytest.mark.parametrize("name", LEARNING)
def test_tritonconv_agrees_with_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a rounding error like that of bfloat16 in each result."""
    found = found_agreements(name, monkeypatch, lambda layer: layer.register_forward_hook(rounded))
    assert [each.curve for each in found] == (["discriminator", "generator"] if name == "dcgan" else ["loss"])
    assert all(each.agree for each in found), found
    assert all(0 < each.between_implementations < each.between_seeds / 2 for each in found), found


def rounded(layer: nn.Module, operands: Any, result: torch.Tensor) -> torch.Tensor:
    return result.bfloat16().float()


def halved(layer: Any) -> None:
    layer.weight.register_hook(lambda gradient: gradient / 2)


def lost(layer: Any) -> None:
    layer.weight.register_hook(torch.zeros_like)


def mirrored(layer: Any) -> None:
    layer.weight.register_hook(lambda gradient: gradient.flip(-1))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("unet", mirrored), ("local", lost), ("local", mirrored), ("dcgan", halved)],
)
def test_a_wrong_gradient_is_noticed(
    name: str, spoil: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_agreements(name, monkeypatch, spoil)
    assert len(found) == (2 if name == "dcgan" else 1)
    assert not all(each.agree for each in found), found


def test_losses_fall() -> None:
    for name in LEARNING:
        first, *_, last = means(next(iter(torch_s(name, 0).values())))  # of a GAN, the discriminator's
        assert last < 0.95 * first, (name, first, last)


def test_both_implementations_see_the_same_data_and_each_seed_other_data() -> None:
    unet = MODELS["unet"]
    batches = [drawn(unet, unet.tiny, CPU, seed, steps=20) for seed in (0, 0, 1)]
    for (one, _), (again, _), (other, _) in zip(*batches, strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    first_round = torch.cat([images for images, _ in batches[0][:16]])
    assert len(first_round.flatten(1).unique(dim=0)) == 16 * unet.tiny.batch  # each sample once before any twice


@pytest.mark.parametrize(("losses", "bad"), [([1.0, nan, 2.0], "step 2 is nan"), ([inf], "step 1 is inf")])
def test_a_curve_that_is_not_finite_is_wrong(losses: list[float], bad: str) -> None:
    assert curves.outcome(losses) == {"status": "wrong", "reason": f"the loss of {bad}"}
    assert curves.outcome([1.0]) == {"losses": [1.0], "status": "ok"}


def test_rows_of_curves() -> None:
    found = curves.curves(MODELS["dcgan"], CPU, 3, ENVIRONMENT)
    keys = [(row["implementation"], row["seed"], row["curve"]) for row in found]
    parts = ("discriminator", "generator")
    assert keys == [(name, seed, part) for seed in (0, 1) for name in ("torch", "triton") for part in parts]
    assert {len(row["losses"]) for row in found} == {3}
    assert [("kernels" in row) for row in found] == [False, False, True, True] * 2
    assert {(row["what"], row["how"], row["status"]) for row in found} == {("loss", "eager", "ok")}


def test_a_curve_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, implementation: str | None) -> int:
        raise ValueError("no such layer")

    monkeypatch.setattr(training, "convert", refuse)
    found = curves.curves(MODELS["local"], CPU, 2, ENVIRONMENT)
    assert [(row["implementation"], row["status"]) for row in found] == [("torch", "ok"), ("triton", "failed")] * 2
    assert found[1]["reason"] == "no such layer"


def test_drawn_shapes_are_what_their_masks_say() -> None:
    masks, kinds = data.drawn(64, 32, torch.Generator().manual_seed(0))
    assert masks.unique().tolist() == [0, 1]
    area = masks.sum((1, 2, 3))
    assert area.min() > 10
    assert area.max() <= 18**2
    assert sorted(kinds.unique().tolist()) == [0, 1, 2, 3]
    assert not masks[:, :, 0].all(dim=-1).any()
    square = next(masks[n, 0] for n in range(64) if kinds[n] == 0)
    assert square.sum() == square.amax(0).sum() * square.amax(1).sum()  # all of its rows times all of its columns


@pytest.mark.parametrize("digits", [True, False])
def test_images_to_classify(digits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn, drawn shapes take the place of digits."""
    if digits:
        pytest.importorskip("sklearn")
    else:
        monkeypatch.setattr(data, "has_digits", lambda: False)
    images, classes = data.labelled(100, (2, 16, 16), torch.Generator().manual_seed(0))
    assert images.shape == (100, 2, 16, 16)
    assert (images.min(), images.max()) == (0, 1)
    assert len(classes.unique()) == (10 if digits else 4)
    noise, scaled = data.for_a_gan(8, (1, 8, 8), torch.Generator().manual_seed(0))
    assert (noise.ndim, scaled.min(), scaled.max()) == (4, -1, 1)
