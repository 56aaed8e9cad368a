"""`Session`: what the benchmarks of one run share. `pytest bench` and `python -m bench device` each make one."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from bench import results
from bench.layers import Layer
from bench.run import roof
from bench.run.contenders import DTYPES, Pass, Problem, competing, operators_of
from bench.run.limits import needs_too_much, takes_too_long
from bench.run.measure import failure, measure, tiles_of, untimed
from bench.run.roof import Measured
from bench.run.timing import BUDGET


class Session:
    """One run of the benchmark: measures each problem once, with all contenders side by side, and keeps the rows.

    `batch` replaces the batch of every layer. Without it, a GPU measures the layers as `layers.csv` lists them. A CPU
    then measures small versions of them, and the record is marked as a rehearsal. The first number of a row's `image`
    is the batch that was measured. `ceilings` are those of an earlier session on this machine: the new one then
    measures none.
    """

    def __init__(
        self,
        device: torch.device,
        contenders: Sequence[str],
        dtypes: Sequence[str],
        batch: int | None = None,
        *,
        ceilings: Measured | None = None,
    ) -> None:
        self.device = device
        self.contenders = contenders
        self.dtypes = dtypes
        self.batch = batch
        self.environment = results.environment(device) | {"load": {"start": load()}}
        self.measured = ceilings or roof.ceilings(dtypes, device)
        self.small = device.type != "cuda" and batch is None
        self.budget = BUDGET / 10 if self.small else BUDGET
        self._problem: Problem | None = None
        self._rows: dict[tuple[str, str, str], list[results.Row]] = {}

    def as_measured(self, layer: Layer) -> Layer:
        """Return the layer as this run measures it: at another batch, scaled down, or as it is."""
        if self.batch is not None:
            return layer.at_batch(self.batch)
        return layer.scaled_down() if self.small else layer

    def problem(self, layer: Layer, dtype: str) -> Problem:
        """Return the operands of a layer. Only those of the last layer are kept."""
        held = self._problem
        if held is None or (held.layer.name, held.dtype) != (layer.name, dtype):
            self._problem = held = None  # frees the memory before the next operands are drawn
            self._problem = Problem.draw(self.as_measured(layer), dtype, self.device)
        assert self._problem is not None
        return self._problem

    def measure(self, layer: Layer, of: Pass, dtype: str) -> list[results.Row]:
        """Return one row for each contender, in their order.

        A contender that fails, or needs too much, gets a row that says so. Raises only if the GPU is lost.
        """
        about = (layer.name, of, dtype)
        if about not in self._rows:
            contenders = competing(self.contenders, layer, self.small)
            reasons = {name: self.refused(name, layer, of, dtype) for name in contenders}
            able = [name for name in contenders if reasons[name] is None]
            try:
                given = (able, self.measured.rates, self.environment, self.budget)
                rows = measure(self.problem(layer, dtype), of, *given) if able else []
            except Exception as error:
                rows = self._untimed(layer, of, dtype, able, failure(error, self.device))
            for name, reason in reasons.items():
                if reason is not None:
                    rows += self._untimed(layer, of, dtype, [name], {"status": "skipped", "reason": reason})
            self._rows[about] = sorted(rows, key=lambda row: contenders.index(row["contender"]))
        return self._rows[about]

    def refused(self, contender: str, layer: Layer, of: Pass, dtype: str) -> str | None:
        """Why this run skips a contender that would need too much of the device; None if it does not."""
        measured = self.as_measured(layer)
        if self.device.type != "cpu":
            return takes_too_long(contender, measured)
        return needs_too_much(contender, measured, of, DTYPES[dtype].itemsize)

    def _untimed(
        self, layer: Layer, of: Pass, dtype: str, contenders: Sequence[str], outcome: results.Row
    ) -> list[results.Row]:
        """Return the rows of contenders that were not timed, with the shapes that they would have been timed at."""
        commit = self.environment["commit"]
        return untimed(self.as_measured(layer), of, dtype, contenders, commit=commit, **outcome)

    def tiles(self, layer: Layer, of: Pass, dtype: str) -> dict[str, str]:
        """Return the tile that each operator of a pass runs with on this device."""
        return tiles_of(self.as_measured(layer), of, dtype, self.device)

    def precompile(self, passes: Iterable[tuple[Layer, Pass, str]]) -> int:
        """Compile the kernels that the passes will launch, in parallel processes. Returns their number, 0 on a CPU."""
        if self.device.type != "cuda":
            return 0
        from bench.lowering.offline import plan_for, precompile
        from tritonconv import runtime

        gpu = runtime.gpu_of(self.device)
        wanted = {
            (self.as_measured(layer), operator, dtype, of == "forward")
            for layer, of, dtype in passes
            for operator in operators_of(of, layer)
        }
        layouts = [name == "triton" for name in self.contenders if name.startswith("triton")]
        plans = (
            plan_for(operator, dtype, layer.geometry, gpu, bias=bias, channels_last=channels_last)
            for layer, operator, dtype, bias in wanted
            for channels_last in layouts
        )
        return precompile(plans, self.device)

    def rows(self) -> list[results.Row]:
        """Return every row that was measured so far."""
        return [row for rows in self._rows.values() for row in rows]

    def record(self) -> dict[str, Any]:
        """Return the record of the run as `bench.results` describes it, without the rows.

        `environment["load"]` has the load average (see `load`) when the session began and now. `batch` is there if
        the layers were not measured at their own.
        """
        environment = self.environment | {"load": self.environment["load"] | {"end": load()}}
        about: dict[str, Any] = {"environment": environment, **self.measured.in_record}
        if self.batch is not None:
            about["batch"] = self.batch
        if self.small:
            about["rehearsal"] = "on a CPU, layers scaled down"
        return about


def load() -> float | None:
    """Return the machine's load average of the last minute, or None if the system does not tell.

    It counts the running threads of all processes, so at the end of a run on a CPU also those of the run itself. A
    quiet machine then shows about the number of threads.
    """
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # not on every system
        return None
