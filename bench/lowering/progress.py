"""Compiles jobs, shows how far it is, and says how long it took."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.layers import Layer
from bench.lowering.offline import Job
from bench.lowering.rows import Failure, lower_all
from bench.lowering.table import Row

# About how many seconds a kernel takes in each process, if none was compiled to tell. 1,236 kernels took 17 minutes on
# two quiet cores.
SECONDS = 17 * 60 / 1236
# A mean over fewer kernels is not taken: starting the processes takes seconds, too.
ENOUGH = 20


@dataclass
class Run:
    """What compiling gave: rows and failures. `compiled` kernels of both are new, and took `seconds` in all."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    compiled: int = 0
    seconds: float = 0.0

    @property
    def seconds_each(self) -> float:
        """About how many seconds pass for each kernel that is compiled."""
        return self.seconds / self.compiled if self.compiled >= ENOUGH else SECONDS

    def in_words(self, version: str) -> str:
        """Return a line with the counts, the time and the `version` of Triton."""
        kept = len(self.rows) + len(self.failures) - self.compiled
        known = f" (others kept from earlier runs: {kept})" if kept else ""
        done = self.compiled - len(self.failures)
        return (
            f"{done} kernels compiled with Triton {version} in {self.seconds:.0f} s{known}, "
            f"{len(self.failures)} did not compile."
        )


def lowered(jobs: Sequence[Job], layers: Sequence[Layer], processes: int | None, fresh: bool) -> Run:
    """Return what `lower_all` yields. On a terminal, a line says how many kernels are done and how long is left."""
    run, start, terminal = Run(), time.monotonic(), sys.stderr.isatty()
    for done, (row, new) in enumerate(lower_all(jobs, layers, processes, fresh), start=1):
        (run.failures if isinstance(row, Failure) else run.rows).append(row)  # type: ignore[arg-type]
        run.compiled += new
        run.seconds = time.monotonic() - start
        if terminal:
            left = (len(jobs) - done) * run.seconds / done
            print(f"\r{done} of {len(jobs)} kernels, about {left:.0f} s left  ", end="", file=sys.stderr, flush=True)
    if terminal:
        print(file=sys.stderr)
    return run
