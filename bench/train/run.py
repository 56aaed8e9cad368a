"""What `bench train` and the part "training" of `bench device` do: the units of work, their order and the record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.device.schedule import Clock, Record
from bench.results import Row
from bench.train.curves import SEEDS, agreements, curves
from bench.train.measure import IMPLEMENTATIONS, measured
from bench.train.models import MODELS

# Steps of a loss curve on a GPU, and on a CPU, which only rehearses.
STEPS, FEW_STEPS = 200, 20
# Estimates of the seconds that a unit takes on a GPU from a cold cache, by its way and whether its network is of a
# package. Most of it goes into compiling: kernels before eager steps and loss curves, all else in torch.compile.
SECONDS = {("eager", True): 50, ("graph", True): 15, ("compile", True): 150}
SECONDS |= {("eager", False): 35, ("graph", False): 10, ("compile", False): 60, ("loss", False): 40}
# An estimate for any unit on a CPU, but for torch.compile, which needs a minute.
SECONDS_ON_CPU = 6


@dataclass(frozen=True)
class Unit:
    """What is measured together: the steps of a model in one way, or with `how` "loss" its loss curves of `steps`."""

    model: str
    how: str
    seconds: float
    steps: int = 0

    @property
    def name(self) -> str:
        return f"{self.model} {self.how}"


def units(device: torch.device, steps: int | None = None) -> list[Unit]:
    """Return all units, the most valuable first. `seconds` are estimates. Loss curves have `steps` steps.

    ResNet-50 comes first, as it is what most readers know. Then the small models follow with their loss curves, then
    the large ones. torch.compile comes last, because it takes the longest.
    """
    length = steps if steps is not None else STEPS if device.type == "cuda" else FEW_STEPS

    def unit(model: str, how: str) -> Unit:
        seconds = SECONDS[how, MODELS[model].package is not None]
        if device.type != "cuda" and how != "compile":
            seconds = SECONDS_ON_CPU
        return Unit(model, how, seconds, length if how == "loss" else 0)

    found = [
        unit(name, how)
        for name, model in MODELS.items()
        for how in ("eager", "graph", *(["loss"] if model.learnt and length else []))
    ]
    return [*found, *(unit(name, "compile") for name in MODELS)]


def belongs(row: Row, unit: Unit) -> bool:
    """Whether a row is one of a unit."""
    if unit.how == "loss":
        return (row["what"], row["model"]) == ("loss", unit.model)
    return (row["what"], row["model"], row["how"]) == ("step", unit.model, unit.how)


def done(unit: Unit, known: Sequence[Row]) -> bool:
    """Whether `known` has a good row for each implementation and, of a loss curve, seed."""
    mine = [row for row in known if belongs(row, unit) and row["status"] == "ok"]
    if unit.how == "loss":
        curves = {(row["implementation"], row["seed"]) for row in mine if len(row["losses"]) == unit.steps}
        return curves == {(name, seed) for name in IMPLEMENTATIONS for seed in SEEDS}
    return {row["implementation"] for row in mine} == {*IMPLEMENTATIONS}


def failed(unit: Unit, known: Sequence[Row]) -> bool:
    """Whether `known` has a row of a unit that failed."""
    return any(belongs(row, unit) and row["status"] == "failed" for row in known)


def unfinished(unit: Unit, reason: str) -> list[Row]:
    """Return the rows of a unit that did not end, one for each implementation."""
    about: Row = {"what": "loss" if unit.how == "loss" else "step", "model": unit.model, "status": "failed"}
    about |= {"how": "eager" if unit.how == "loss" else unit.how, "reason": reason}
    return [about | {"implementation": name} for name in IMPLEMENTATIONS]


def run(
    path: Path,
    device: torch.device,
    clock: Clock,
    keep: Callable[[], None],
    known: Sequence[Row] = (),
    chosen: Sequence[Unit] | None = None,
) -> int:
    """Measure units while there is time, and write the record `path`. Return the exit status.

    A unit is begun only if there is time for it, by its estimate. If a unit took longer than estimated, the estimates
    of all others grow by the same factor. Units whose model has no package take no time. Units that failed before come
    last, and so do those within which the process was ended or lost the GPU: all others would wait for them each time.

    Args:
        path: The file of the record, which is a valid one at any moment. If it is there already, it is continued.
        device: Where the models train. A CPU runs tiny versions.
        clock: The time that is left.
        keep: A function that saves compiled kernels. It is called after each unit that compiles any.
        known: Rows of earlier records that are still current. Units whose rows are all here are left out.
        chosen: The units, by default all.

    Returns:
        1 if a unit failed or was wrong, if loss curves do not agree, or if the GPU was lost, and else 0.
    """
    environment = results.environment(device)
    about: dict[str, Any] = {"environment": environment, "ceilings": {}}
    if device.type != "cuda":
        about["rehearsal"] = "on a CPU, models scaled down"
    # An earlier record there goes on: units that it has are left out, and rows that were not good are replaced.
    record = Record.continued(path, part="training", **about)
    held = record.content["rows"]
    todo = [unit for unit in (units(device) if chosen is None else chosen) if not done(unit, [*known, *held])]
    todo.sort(key=lambda unit: failed(unit, [*known, *held]))
    record.content["rows"] = [row for row in held if not any(belongs(row, unit) for unit in todo)]
    record.plan(unit.name for unit in todo)
    slower, stopped = 1.0, None
    for unit in todo:
        seconds = 0 if MODELS[unit.model].missing() else unit.seconds * slower
        before = clock.left()
        if before < seconds:
            continue
        record.show(unfinished(unit, "the process ended within it"))
        try:
            record.add(unit.name, rows_of(unit, device, environment))
        except Exception as error:  # the GPU is lost
            stopped = f"{unit.name}: {results.in_short(error)}"
            record.add(unit.name, unfinished(unit, results.in_short(error)), done=False)
            break
        slower = max(slower, (before - clock.left()) / unit.seconds)
        if unit.how in ("eager", "loss"):
            keep()
    record.close(stopped)
    return said(record.content, len(todo))


def rows_of(unit: Unit, device: torch.device, environment: dict[str, Any]) -> list[Row]:
    """Measure a unit. Afterwards nothing of it is left in memory."""
    try:
        if unit.how == "loss":
            return curves(MODELS[unit.model], device, unit.steps, environment)
        return measured(MODELS[unit.model], unit.how, device, environment)
    finally:
        if unit.how == "compile":
            torch._dynamo.reset()


def said(record: results.Results, planned: int) -> int:
    """Print what went wrong and how much was done. Return the exit status."""
    bad = [row for row in record["rows"] if row["status"] in ("wrong", "failed")]
    for row in bad:
        print(f"{row['status'].upper()}: {row['model']} {row['how']} {row['implementation']}: {row['reason']}")
    apart = [each for each in agreements(record["rows"]) if not each.agree]
    for each in apart:
        print(f"WRONG: {each.model}: the loss curves ({each.curve}) of torch and triton do not agree")
    done = planned - len(record["remaining"])
    print(f"training: {done} of {planned} units measured: {record['stopped'] or 'complete'}")
    lost = record["stopped"] not in (None, "the time was up")
    return int(bool(bad or apart or lost))
