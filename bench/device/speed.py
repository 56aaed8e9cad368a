"""The parts of `bench device` that time layers: `layers`, `precision` and `profile`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.device.schedule import Clock, Record, in_time
from bench.layers import SMOKE, Layer, select
from bench.report import tables
from bench.run.contenders import PASSES, Pass, at_its_best, computation, operators_of
from bench.run.measure import about
from bench.run.session import Session
from tritonconv.geometry import OPERATORS

# How many rows that are wrong or failed are printed. All of them are in the record.
SHOWN = 20


@dataclass(frozen=True)
class Unit:
    """One pass of one layer in one dtype."""

    layer: Layer
    of: Pass
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.layer.name} {self.of} {self.dtype}"


# The operators are timed first (0), then these.
LATER = {"forward": 1, "step": 2}


def units(layers: Sequence[Layer], dtypes: Sequence[str]) -> list[Unit]:
    """Return all passes of the layers, the most valuable first, because the time may not suffice for all.

    They are sorted by dtype, then by pass: operators, forward passes with a bias, whole steps. Among equals, the layers
    of the smoke set come first.
    """
    ordered = sorted(layers, key=lambda layer: layer.name not in SMOKE)
    every = [Unit(layer, of, dtype) for dtype in dtypes for layer in ordered for of in PASSES]
    return sorted(every, key=lambda unit: (dtypes.index(unit.dtype), LATER.get(unit.of, 0)))


def stale(
    units: Sequence[Unit],
    known: results.Results | None,
    names: dict[str, str],
    tiles: Callable[[Unit], dict[str, str] | None],
) -> list[Unit]:
    """Return the units without a result in `known` that has the kernels and tiles that they would run with now.

    Args:
        units: The units to choose from.
        known: The committed results of this GPU, if there are any.
        names: The name of each operator's kernels as they are now.
        tiles: A function that returns the tile of each operator of a unit.
    """
    rows = {results.key(row): row for row in (known or {"rows": []})["rows"]}

    def fresh(unit: Unit) -> bool:
        row = rows.get((unit.layer.name, unit.of, "triton", unit.dtype))
        kernels = results.kernels_of(operators_of(unit.of, unit.layer), names)
        return row is not None and row.get("kernels") == kernels and row["tile"] == tiles(unit)

    return [unit for unit in units if not fresh(unit)]


def run_layers(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """Write `layers.json` and `layers.md`: times of torch and triton side by side. Return the exit status.

    Passes that have a committed result of the same kernels and tiles are left out, unless `args.again`. Locally
    connected layers, which torch does not have, are timed beside unfold + einsum and a loop over positions.
    """
    dtypes = ["bfloat16", "tf32", "float32"] if device.type == "cuda" else ["float32"]
    session = Session(device, ["torch", "triton"], dtypes)
    todo = units(select(args.rows), dtypes)
    if not args.again:
        known = results.committed(session.environment["gpu"])
        names = session.environment["kernels"]
        todo = stale(todo, known, names, lambda unit: session.tiles(unit.layer, unit.of, unit.dtype))
    status = measure_all(session, todo, args.out / "layers.json", clock, keep)
    results.write(args.out / "layers.md", tables.report(results.load(args.out / "layers.json")))
    return status


def run_precision(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """Write `precision.json`: times of the smoke layers in several dtypes, in channels_last and in NCHW.

    Return the exit status.
    """
    dtypes = ["float16", "tf32", "bfloat16"] if device.type == "cuda" else ["float32"]
    session = Session(device, ["torch", "triton", "torch-nchw", "triton-nchw"], dtypes)
    return measure_all(session, units(select("smoke"), dtypes), args.out / "precision.json", clock, keep)


def measure_all(session: Session, todo: Sequence[Unit], path: Path, clock: Clock, keep: Callable[[], None]) -> int:
    """Compile the kernels of all units, then measure unit by unit while there is time, and write the record `path`.

    Return the exit status: 1 if a result was wrong or failed, or if the GPU was lost.
    """
    record = Record(path, part=path.stem, **session.record())
    record.plan(unit.name for unit in todo)
    compiled = session.precompile((unit.layer, unit.of, unit.dtype) for unit in todo)
    keep()
    print(
        f"{path.stem}: {compiled} kernels compiled, {len(todo)} passes to time, {clock.left():.0f} seconds left",
        flush=True,
    )
    stopped = None
    for unit in in_time(todo, clock, reserve=2.0):
        try:
            rows = session.measure(unit.layer, unit.of, unit.dtype)
        except Exception as error:  # the GPU is lost
            stopped = f"{unit.name}: {results.in_short(error)}"
            break
        record.add(unit.name, rows)
    record.close(stopped)
    bad = [row for row in record.content["rows"] if row["status"] in ("wrong", "failed")]
    for row in bad[:SHOWN]:
        print(f"{row['status'].upper()}: {' '.join(results.key(row))}: {row['reason']}")
    timed = len(todo) - len(record.content["remaining"])
    print(
        f"{path.stem}: {timed} of {len(todo)} passes timed, {len(bad)} results wrong or failed: "
        f"{record.content['stopped'] or 'complete'}"
    )
    return int(bool(bad or stopped))


def run_profile(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """Write `profile.json`: the kernels that torch runs for each operator of each layer, with their microseconds.

    Layers whose weight varies are left out, because torch has none. Return the exit status: 1 if the GPU was lost.
    """
    session = Session(device, ["torch"], ["bfloat16" if device.type == "cuda" else "float32"])
    layers = [layer for layer in select(args.rows) if not layer.case.varies]  # torch has none that do
    todo = [unit for unit in units(layers, session.dtypes) if unit.of in OPERATORS]
    record = Record(args.out / "profile.json", part="profile", **session.record())
    record.plan(unit.name for unit in todo)
    stopped = None
    for unit in in_time(todo, clock, reserve=2.0):
        row = about(unit.layer, unit.of, "torch", unit.dtype)
        try:
            run = computation("torch", unit.of, session.problem(unit.layer, unit.dtype))
            with at_its_best(unit.dtype):
                row |= {"status": "profiled", "kernels_of_torch": profile(run, device)}
        except Exception as error:
            row |= {"status": "failed", "reason": results.in_short(error)}
            stopped = row["reason"] if results.lost(device) else None
        record.add(unit.name, [row])
        if stopped:
            break
    record.close(stopped)
    done = len(record.content["rows"])
    print(f"profile: {done} of {len(todo)} passes profiled: {record.content['stopped'] or 'complete'}")
    return int(stopped is not None)


def profile(run: Callable[[], Any], device: torch.device, runs: int = 5) -> list[dict[str, Any]]:
    """Return the kernels that a call of `run` starts, each with its microseconds per call, the slowest first.

    The times are means of `runs` calls, after two calls to warm up. On a CPU, torch's operators stand for kernels.
    """
    on = torch.profiler.ProfilerActivity
    for _ in range(2):
        run()
    with torch.profiler.profile(activities=[on.CUDA if device.type == "cuda" else on.CPU]) as profiler:
        for _ in range(runs):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    averages = [
        (e.key, e.device_time_total if device.type == "cuda" else e.self_cpu_time_total)
        for e in profiler.key_averages()
    ]
    found = [{"name": name, "us": round(total / runs, 2)} for name, total in averages if total > 0]
    return sorted(found, key=lambda each: -each["us"])
