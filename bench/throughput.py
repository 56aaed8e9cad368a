"""How fast the kernels are on this GPU: the parts of `bench device` that time layers."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench import report, results
from bench.contenders import PASSES, Pass, at_its_best, call
from bench.layers import SMOKE, Layer, select
from bench.measure import about
from bench.schedule import Clock, Record, in_time
from bench.session import Session

# Bad rows that are printed; all are in the record.
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


def units(layers: Sequence[Layer], dtypes: Sequence[str]) -> list[Unit]:
    """All passes, in the order of their value: dtype by dtype, the layers of the smoke set first."""
    ordered = sorted((layer for layer in layers if layer.why_not is None), key=lambda layer: layer.name not in SMOKE)
    return [Unit(layer, of, dtype) for dtype in dtypes for layer in ordered for of in PASSES]


def stale(
    units: Sequence[Unit],
    known: results.Results | None,
    hashes: dict[str, str],
    tiles: Callable[[Unit], dict[str, str] | None],
) -> list[Unit]:
    """The units that have no committed result of these kernels, in the tiles that they would choose now."""
    rows = {results.key(row): row for row in (known or {"rows": []})["rows"]}

    def fresh(unit: Unit) -> bool:
        row = rows.get((unit.layer.name, unit.of, "triton", unit.dtype))
        return row is not None and results.matches(row, hashes) and row["tile"] == tiles(unit)

    return [unit for unit in units if not fresh(unit)]


def run_layers(args: argparse.Namespace, device: torch.device, clock: Clock) -> int:
    """`layers.json`: what has changed since the newest committed results, torch and triton side by side."""
    session = Session(
        device, ["torch", "triton"], ["bfloat16", "tf32", "float32"] if device.type == "cuda" else ["float32"]
    )
    todo = units(select(args.rows), session.dtypes)
    if not args.again:
        known = results.committed(session.environment["gpu"])
        todo = stale(
            todo, known, session.environment["kernels"], lambda unit: session.tiles(unit.layer, unit.of, unit.dtype)
        )
    return measure_all(session, todo, args, clock, "layers")


def run_precision(args: argparse.Namespace, device: torch.device, clock: Clock) -> int:
    """`precision.json`: the smoke rows in other dtypes, and in NCHW."""
    dtypes = ["float16", "tf32", "bfloat16"] if device.type == "cuda" else ["float32"]
    session = Session(device, ["torch", "triton", "torch-nchw", "triton-nchw"], dtypes)
    return measure_all(session, units(select("smoke"), dtypes), args, clock, "precision")


def measure_all(session: Session, todo: Sequence[Unit], args: argparse.Namespace, clock: Clock, part: str) -> int:
    """Compile everything first, then measure unit by unit. 1 if a result was wrong or something failed."""
    record = Record(args.out / f"{part}.json", part=part, **session.record())
    record.plan(unit.name for unit in todo)
    compiled = session.precompile((unit.layer, unit.of, unit.dtype) for unit in todo)
    print(f"{part}: {len(todo)} passes to time, {compiled} kernels compiled, {clock.left():.0f} s left", flush=True)
    stopped = None
    for unit in in_time(todo, clock, reserve=2.0):
        try:
            rows = session.measure(unit.layer, unit.of, unit.dtype)
        except Exception as error:
            reason = f"{type(error).__name__}: {f'{error}'[:300]}"
            rows = [
                about(unit.layer, unit.of, name, unit.dtype) | {"status": "failed", "reason": reason}
                for name in session.contenders
            ]
            stopped = reason if results.is_sticky(error) else None
        record.add(unit.name, rows)
        if stopped:
            break
    record.close(stopped or ("the time was up" if record.content["remaining"] else None))
    results.write(args.out / f"{part}.md", report.report(record.content))
    bad = [row for row in record.content["rows"] if row["status"] in ("wrong", "failed")]
    for row in bad[:SHOWN]:
        print(f"{row['status'].upper()}: {' '.join(results.key(row))}: {row['reason']}")
    print(f"{part}: {len(todo) - len(record.content['remaining'])} of {len(todo)} passes timed, {len(bad)} rows bad")
    return int(bool(bad))


def run_profile(args: argparse.Namespace, device: torch.device, clock: Clock) -> int:
    """`profile.json`: the kernels that torch runs for each pass, and how long each takes, in microseconds."""
    session = Session(device, ["torch"], ["bfloat16" if device.type == "cuda" else "float32"])
    todo = [unit for unit in units(select(args.rows), session.dtypes) if unit.of != "step"]
    record = Record(args.out / "profile.json", part="profile", **session.record())
    record.plan(unit.name for unit in todo)
    for unit in in_time(todo, clock, reserve=2.0):
        run = call("torch", unit.of, session.problem(unit.layer, unit.dtype))
        with at_its_best(unit.dtype):
            kernels = profile(run, device)
        record.add(
            unit.name,
            [about(unit.layer, unit.of, "torch", unit.dtype) | {"status": "profiled", "kernels_of_torch": kernels}],
        )
    record.close("the time was up" if record.content["remaining"] else None)
    print(f"profile: {len(record.content['rows'])} of {len(todo)} passes")
    return 0


def profile(run: Callable[[], Any], device: torch.device, runs: int = 5) -> list[dict[str, Any]]:
    """The kernels of one call after warming up, in microseconds, the longest first; on a CPU, torch's operators."""
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
