"""Loss curves of the small models, and whether those of torch and tritonconv agree within the noise of two seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt
from statistics import fmean
from typing import Any

import torch

from bench.results import Row
from bench.run.contenders import at_its_best
from bench.train.data import Batch, placed
from bench.train.measure import IMPLEMENTATIONS, named
from bench.train.models import Model, Size
from bench.train.timing import failure
from bench.train.training import Training, dtype_on

SEEDS = (0, 1)
# How many batches of data there are. Each seed draws its own, and shuffles them anew when all were used.
BATCHES = 16
# Into how many parts of equal length a curve is divided, of which the means are compared.
PARTS = 10


def curves(model: Model, device: torch.device, steps: int, environment: dict[str, Any]) -> list[Row]:
    """Return a row for each loss of the model, implementation and seed: `losses` has one number for each step.

    For each seed, both implementations start with the same weights and see the same data in the same order. A model
    with two losses, a GAN, has rows for both: `curve` is the name of the loss.
    """
    assert model.learnt is not None, f"{model.name} has no data to learn from"
    size = model.learnt[0] if device.type == "cuda" else model.tiny
    about = {"what": "loss", "model": model.name, "how": "eager", "batch": size.batch, "image": [*size.image]}
    rows = []
    for seed in SEEDS:
        for implementation in IMPLEMENTATIONS:
            row = named(about, implementation, device, environment) | {"seed": seed}
            try:
                with at_its_best(dtype_on(device)):
                    found = learnt(model, size, implementation, device, seed, steps)
            except Exception as error:
                rows.append(row | {"curve": None} | failure(error, device))
            else:
                rows += [row | {"curve": name} | outcome(losses) for name, losses in found.items()]
    return rows


def outcome(losses: list[float]) -> Row:
    """Return the status of a curve, with its losses if all are finite."""
    bad = next((step for step, loss in enumerate(losses) if not isfinite(loss)), None)
    if bad is None:
        return {"losses": losses, "status": "ok"}
    return {"status": "wrong", "reason": f"the loss of step {bad + 1} is {losses[bad]}"}


def learnt(
    model: Model, size: Size, implementation: str, device: torch.device, seed: int, steps: int
) -> dict[str, list[float]]:
    """Train a model. Return the loss of each step, rounded to six digits, by the names of its losses."""
    training = Training.of(model, size, implementation, device, seed, size.rate)
    batches = drawn(model, size, device, seed, steps)
    if implementation == "triton" and device.type == "cuda":
        training.precompile(batches[0])
    # The losses stay on the device until the end. Reading them after each step would make a GPU wait for Python.
    found = torch.stack([torch.stack(training.step(*batch)) for batch in batches]).T.double().tolist()
    names = model.build(size)
    return {name: [float(f"{loss:.6g}") for loss in losses] for name, losses in zip(names, found, strict=True)}


def drawn(model: Model, size: Size, device: torch.device, seed: int, steps: int) -> list[Batch]:
    """Return the batch of each step: parts of `BATCHES * size.batch` samples, which are shuffled when all were used."""
    assert model.learnt is not None
    generator = torch.Generator().manual_seed(seed)
    count = BATCHES * size.batch
    data = placed(model.learnt[1](count, size.image, generator), device)
    orders = [torch.randperm(count, generator=generator).to(device) for _ in range(-(-steps // BATCHES))]
    chosen = [part for order in orders for part in order.split(size.batch)][:steps]
    return [placed(tuple(each[part] for each in data), device) for part in chosen]


@dataclass(frozen=True)
class Agreement:
    """How far the curves of one loss lie apart: between the implementations, and between the seeds of torch."""

    model: str
    curve: str | None
    between_implementations: float
    between_seeds: float

    @property
    def agree(self) -> bool:
        """Whether the implementations are no further apart than the seeds. False if a loss is NaN."""
        return self.between_implementations <= self.between_seeds


def agreements(rows: Sequence[Row]) -> list[Agreement]:
    """Return, for each loss of each model with all its curves, whether the implementations agree.

    Curves of different lengths are not compared. The distance between the implementations is the larger one of those of
    the two seeds. `distance` defines it.
    """
    found = {
        (row["model"], row.get("curve"), row["implementation"], row["seed"]): row["losses"]
        for row in rows
        if row["what"] == "loss" and row["status"] == "ok"
    }
    agreed = []
    for model, curve in dict.fromkeys(key[:2] for key in found):
        keys = [(model, curve, name, seed) for name in IMPLEMENTATIONS for seed in SEEDS]
        if len({len(found.get(key, [])) for key in keys}) == 1:
            theirs, others, mine, mine_again = (found[key] for key in keys)
            apart = [distance(theirs, mine), distance(others, mine_again)]
            worst = max(apart) if all(each == each for each in apart) else float("nan")
            agreed.append(Agreement(model, curve, worst, distance(theirs, others)))
    return agreed


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how far two loss curves lie apart: the RMS difference of the means of their `PARTS` parts.

    Means of several steps are compared, because single losses depend most on the batch. What a wrong gradient does
    lasts: it keeps losses too high for many steps.
    """
    differences = [a - b for a, b in zip(means(one), means(other), strict=True)]
    return sqrt(fmean(each * each for each in differences))


def means(losses: Sequence[float]) -> list[float]:
    """Return the mean of each of `PARTS` parts of a curve, or of as many as it has steps, if these are fewer."""
    parts = min(PARTS, len(losses))
    ends = [len(losses) * n // parts for n in range(parts + 1)]
    return [fmean(losses[start:end]) for start, end in pairwise(ends)]
