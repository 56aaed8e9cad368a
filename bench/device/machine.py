"""The machine that `bench device` works on: all that takes time there. `bench.device.pretended` has a stand-in."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import tritonconv
from bench import results
from bench.device import estimates
from bench.device.schedule import Clock
from bench.results import Row
from bench.run.session import Session
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan

# Seconds that a process may take beyond its time, before it is ended.
GRACE = 5.0
# A process that seems to be older than this when its work begins has another clock than the system.
OLDEST = 60.0


class Machine:
    """This machine. Without a GPU, small problems in Triton's interpreter stand for the work: `rehearsal` says so."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rehearsal = None if device.type == "cuda" else "in Triton's interpreter"

    @property
    def gpu(self) -> Gpu:
        """The GPU as tiles are chosen for it."""
        from tritonconv import runtime

        return runtime.gpu_of(self.device)

    def now(self) -> float:
        """Return the seconds of a clock that all processes of this machine share."""
        return time.monotonic()

    def began(self) -> float:
        """Return when this process began, on the clock of `now`. Importing everything has taken time since then."""
        return self.now() - age()

    def environment(self) -> dict[str, Any]:
        return results.environment(self.device)

    def lost(self) -> bool:
        """Whether this process can no longer use the GPU."""
        return results.lost(self.device)

    def start(self, arguments: Sequence[str], until: float) -> int:
        """Run `bench device` in a process of its own, and return its exit status.

        If that process loses the GPU, the next one can still use it. It is ended if it runs much longer than `until`.
        """
        command = [sys.executable, "-m", "bench", "device", *arguments]
        with subprocess.Popen(command, cwd=results.ROOT) as process:
            try:
                return process.wait(max(0.0, until - self.now()) + GRACE)
            except subprocess.TimeoutExpired:
                print(f"ended, because its time was up: {' '.join(arguments)}", file=sys.stderr)
                return 1
            finally:
                process.terminate()
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()

    def compile(self, plans: Iterable[Plan]) -> int:
        """Compile the kernels that plans launch, and return how many there are. The interpreter compiles none."""
        if self.device.type != "cuda":
            return 0
        from bench.lowering.offline import precompile

        return precompile(plans, self.device)

    def session(self, contenders: Sequence[str], dtypes: Sequence[str], known: dict[str, Any]) -> Session:
        """Return a session for these contenders. `known` is a record with ceilings, or an empty one.

        Only ceilings of dtypes that the record lacks are measured.
        """
        from bench.run.roof import Measured, ceilings

        fields = ("ceilings", "ceilings_from", "ceiling_clocks")
        rates, products, clocks = (dict(known.get(name, {})) for name in fields)
        missing = [dtype for dtype in dtypes if dtype not in rates]
        if missing:
            new = ceilings(missing, self.device)
            rates, products, clocks = new.rates | rates, new.products | products, new.clocks | clocks
        return Session(self.device, contenders, dtypes, ceilings=Measured(rates, products, clocks))

    def check(self, unit: Any, row: Row, many: int) -> Row:
        """Compute a unit of `bench.device.exactness` both ways, and return its row with the outcome."""
        from bench.device import exactness

        return exactness.check(unit, self.device, row, many)

    def time_both_ways(self, switch: str, layer: Any, operator: Any) -> list[Row]:
        """Time an operator of a layer with a switch off and on, and return the rows."""
        from bench.device import switch_times

        return switch_times.timed(switch, self.gpu, layer, operator, self.device)

    def tests(self, paths: Sequence[str], seconds: float, passed: Sequence[str] = ()) -> Iterator[list[Row]]:
        """Run files of tests, without the tests that `passed` names. Yield a row for each file every few seconds."""
        from bench.device import tests

        return tests.run(paths, seconds, passed)

    def wrong(self, seed: int, dtype: str) -> tuple[str, str] | None:
        """Run the random problem of this seed. Return the problem and what is wrong with it, or None if it is right."""
        from tests.sweep.check import wrong
        from tests.sweep.problems import integers, problem

        case = problem(seed, dtype)
        failure = wrong(case, str(self.device), integers(seed), seed)
        return None if failure is None else (case.line, failure)

    def tune(self, task: Any) -> tuple[Row | None, list[str]]:
        """Time the tiles of a problem. Return the row of the fastest, and a line for each tile that was refused."""
        from bench.run.contenders import Problem
        from bench.tune.search import medians, tune

        problem = Problem.draw(task.layer, task.dtype, self.device)
        timer = lambda calls: medians(calls, self.device)  # noqa: E731
        return tune(problem, task.operator, task.candidates, self.gpu, timer=timer)

    def profile(self, session: Session, unit: Any) -> list[Row]:
        """Return the kernels that torch runs for a unit, with their times."""
        from bench.device.profile import profile
        from bench.run.contenders import at_its_best, computation

        call = computation("torch", unit.of, session.problem(unit.layer, unit.dtype))
        with at_its_best(unit.dtype):
            return profile(call, self.device)

    def train(self, path: Path, clock: Clock, keep: Callable[[], None], known: list[Row]) -> int:
        """Time training steps, and write them to `path`. Return the exit status.

        Without a GPU the reference computes, because a model takes minutes in Triton's interpreter.
        """
        with tritonconv.using("reference") if self.rehearsal else nullcontext():
            from bench.train.run import run

            return run(path, self.device, clock, keep, known)

    def has(self, package: str | None) -> bool:
        """Whether a package is installed. None stands for no package."""
        return package is None or find_spec(package) is not None

    def begin(self) -> None:
        """Called at the start of the command. Importing everything has taken its time already."""


def age() -> float:
    """Return how many seconds ago this process began. It is an estimate if the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        found = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return estimates.FIRST
    return found if 0 <= found <= OLDEST else estimates.FIRST
