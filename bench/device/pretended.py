"""A pretended GPU: a stand-in for the machine, on which everything takes its committed or estimated time at once.

Its clock is virtual. The slices run as they are, on problems of full size of which no tensor exists. Only what takes
time on a machine is replaced (`bench.device.machine`), and everything is right. So a rehearsal shows what a call does
in which order, and what it writes.
"""

import argparse
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.device import estimates, tests
from bench.device.machine import GRACE, Machine
from bench.device.schedule import Clock, Record
from bench.layers import Layer
from bench.results import Row
from bench.run.contenders import Pass, operators_of
from bench.run.measure import about, shapes
from bench.run.timing import BUDGET
from bench.train.curves import SEEDS
from bench.train.measure import IMPLEMENTATIONS
from bench.train.models import MODELS
from bench.train.run import done, units
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan

# The GPUs that can be pretended, with architecture, multiprocessors and memory in GB.
GPUS = {"NVIDIA H200": ("sm_90", 132, 150), "NVIDIA H100": ("sm_90", 132, 85)}
# The versions there. They decide what is current.
VERSIONS = {"torch": "2.11.0+cu130", "triton": "3.6.0", "cuda": "13.0", "cudnn": 91900, "driver": None}
CEILINGS = {**estimates.CEILING_OF, "copy": estimates.MEMORY, "read": estimates.MEMORY, "l2": 5800.0, "l2_read": 5800.0}


class Killed(BaseException):
    """The process took too long and was killed. It can not catch this."""


class Pretended(Machine):
    """A machine with the GPU of this name, that is `slower` times as slow as estimated.

    `breaks` is for tests: it is called with what the machine is about to do, and may raise an error. The GPU is lost to
    the process from then on.
    """

    def __init__(self, name: str, slower: float = 1.0, breaks: Callable[[str], None] = lambda what: None) -> None:
        super().__init__(torch.device("cuda"))
        self.name, self.slower, self.breaks = name, slower, breaks
        self.rehearsal = f"on a pretended {name}: times are committed ones or estimates"
        self.time, self.until = 0.0, float("inf")
        self.cached: set[Any] = set()
        self.broken = False
        self._environment: dict[str, Any] = {}

    @property
    def gpu(self) -> Gpu:
        architecture, multiprocessors, _ = GPUS[self.name]
        return Gpu.of(architecture, multiprocessors, self.name)

    def now(self) -> float:
        return self.time

    def began(self) -> float:
        return self.time

    def advance(self, what: str, seconds: float) -> None:
        """Let so many seconds pass. Raise an error if the process is killed meanwhile, or if the GPU breaks."""
        self.time += seconds * self.slower
        try:
            self.breaks(what)
        except Exception:
            self.broken = True
            raise
        if self.time > self.until + GRACE:
            self.time = self.until + GRACE
            raise Killed

    def begin(self) -> None:
        self.advance("start", estimates.FIRST)

    def environment(self) -> dict[str, Any]:
        if not self._environment:
            architecture, multiprocessors, memory = GPUS[self.name]
            here = results.environment(torch.device("cpu"))
            there = {"gpu": self.name, "architecture": architecture, "multiprocessors": multiprocessors}
            self._environment = here | there | VERSIONS | {"memory_gb": memory, "cpu": "pretended", "threads": 16}
        return self._environment | {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}

    def lost(self) -> bool:
        return self.broken

    def has(self, package: str | None) -> bool:
        return True

    def start(self, arguments: Sequence[str], until: float) -> int:
        """Do the work of the process here and now."""
        from bench.device import call, command

        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args = parser.parse_args(arguments)
        self.broken, self.until = False, until
        try:
            self.advance(f"process {args.process} of {args.slice[0]}", estimates.START)
            return call.process(args, self, lambda: None)
        except (Killed, Exception) as error:
            print(f"{' '.join(args.slice)}: {type(error).__name__}: {error}")
            return 1
        finally:
            self.until = float("inf")

    def compile(self, plans: Iterable[Plan]) -> int:
        variants = {started.variant for plan in plans for started in plan.launches}
        new = variants - self.cached
        self.advance("compile", max(estimates.to_compile(len(new)), estimates.WORKERS if variants else 0.0))
        self.cached |= new
        return len(variants)

    def session(self, contenders: Sequence[str], dtypes: Sequence[str], known: dict[str, Any]) -> Any:
        missing = [dtype for dtype in dtypes if dtype not in known.get("ceilings", {})]
        if missing:
            self.advance("ceilings", estimates.CEILINGS + estimates.CEILING * len(missing))
        there = {*known.get("ceilings", {}), *missing, "copy", "read", "l2", "l2_read"}
        return PretendedSession(self, contenders, {name: CEILINGS[name] for name in CEILINGS if name in there})

    def check(self, unit: Any, row: Row, many: int) -> Row:
        self.advance(f"check {unit.name}", estimates.EXACTNESS)
        return row | {"status": "skipped" if unit.by_programs else "ok"}

    def time_both_ways(self, switch: str, layer: Layer, operator: Any) -> list[Row]:
        self.advance(f"time {switch} {layer.name} {operator}", estimates.BOTH_WAYS)
        one = spread(estimates.microseconds(layer, operator, "triton", "bfloat16").device)
        return [{"on": on, "status": "ok", "how": "graph", "device": one} for on in (False, True)]

    def tests(self, paths: Sequence[str], seconds: float, passed: Sequence[str] = ()) -> Iterator[list[Row]]:
        """Run the files one after another. The time may be up within one of them."""
        clock, rows = Clock(seconds, self.now), []
        self.advance("tests", min(estimates.TESTS, seconds))
        for path in paths:
            before = [name for name in passed if name.startswith(path)]
            number = round(tests.seconds(path) / estimates.TEST)
            names = [name for n in range(number) if (name := f"{path}::test_{n}") not in before]
            able = max(0, min(len(names), int(clock.left() / estimates.TEST / self.slower)))
            self.advance(f"tests {path}", able * estimates.TEST)
            ran = [{"test": name, "outcome": "passed", "seconds": 1.0} for name in names[:able]]
            rows.append(tests.row_of(path, ran, len(names), bool(before)))
            yield rows

    def wrong(self, seed: int, dtype: str) -> None:
        self.advance(f"random problem {seed}", estimates.RANDOM)

    def tune(self, task: Any) -> tuple[Row | None, list[str]]:
        self.advance(f"tune {task.name}", estimates.TUNING)
        from bench.tune.search import key_of

        best, microseconds = task.candidates[0], estimates.microseconds(task.layer, task.operator, "triton", task.dtype)
        row = {"key": list(key_of(task.layer, task.operator, task.dtype, self.gpu)), "name": str(best)}
        return row | {"microseconds": microseconds.device, "times": {str(best): microseconds.device}}, []

    def profile(self, session: Any, unit: Any) -> list[Row]:
        self.advance(f"profile {unit.name}", estimates.DRAW + estimates.SEARCH)
        times = estimates.microseconds(unit.layer, unit.of, "torch", unit.dtype)
        return [{"name": "pretended", "us": round(times.device, 2)}]

    def train(self, path: Path, clock: Clock, keep: Callable[[], None], known: list[Row]) -> int:
        about = {"part": "training", "environment": self.environment(), "rehearsal": self.rehearsal}
        record = Record.continued(path, ceilings={}, **about)
        todo = [unit for unit in units(self.device) if not done(unit, known)]
        record.plan(unit.name for unit in todo)
        for unit in todo:
            if clock.left() >= unit.seconds:
                self.advance(f"train {unit.name}", unit.seconds)
                record.add(unit.name, trained(unit))
        record.close()
        return 0


def trained(unit: Any) -> list[Row]:
    """Return the rows of a unit of `bench.train.run`."""
    about = {"model": unit.model, "how": unit.how, "status": "ok"}
    if unit.how != "loss":
        about |= {"what": "step", "batch": MODELS[unit.model].full.batch}
        about |= {"images_per_second": None, "peak_bytes": None}
        return [about | {"implementation": name} for name in IMPLEMENTATIONS]
    curves = [(name, seed) for name in IMPLEMENTATIONS for seed in SEEDS]
    losses = [0.0] * unit.steps
    return [about | {"what": "loss", "implementation": name, "seed": seed, "losses": losses} for name, seed in curves]


class PretendedSession:
    """What `bench.run.session.Session` is on a machine: it measures one pass after another."""

    def __init__(self, machine: Pretended, contenders: Sequence[str], ceilings: dict[str, float]) -> None:
        self.machine, self.contenders, self.ceilings = machine, contenders, ceilings
        self.budget = BUDGET
        self.environment = machine.environment()
        self._rows: Any = {}
        self._problem: Any = None

    def as_measured(self, layer: Layer) -> Layer:
        return layer

    def record(self) -> dict[str, Any]:
        return {"environment": self.environment, "ceilings": self.ceilings}

    def measure(self, layer: Layer, of: Pass, dtype: str) -> list[Row]:
        """Return a row for each contender, with committed times or guesses."""
        from bench.device.contests import tiles

        rows, machine, now = [], self.machine, self.environment
        machine.advance(f"measure {layer.name} {of} {dtype} by {' '.join(self.contenders)}", estimates.DRAW)
        for name in self.contenders:
            machine.advance(f"time {name}", estimates.seconds_of_call(layer, of, name, dtype, self.budget))
            times = estimates.microseconds(layer, of, name, dtype)
            row = about(layer, of, name, dtype) | {"commit": now["commit"]} | shapes(layer)
            row |= {"status": "ok", "how": "graph", "cold": "read", "device_us": spread(times.device)}
            row |= {"wall_us": spread(times.eager), "host_us": spread(max(1.0, times.eager - times.device))}
            if name.startswith("triton"):
                row["kernels"] = results.kernels_of(operators_of(of, layer), now["kernels"])
                row["tile"] = tiles(layer, of, dtype, machine.gpu, name == "triton")
            rows.append(row)
        return rows


def spread(microseconds: float) -> dict[str, float]:
    """Return a time without any spread."""
    return {"median": round(microseconds, 3), "p20": round(microseconds, 3), "p80": round(microseconds, 3), "runs": 1}
