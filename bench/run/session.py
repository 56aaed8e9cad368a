"""What the benchmarks of one run share: the device, its ceilings, and the problem at hand with its rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from bench import results
from bench.layers import Layer
from bench.run.contenders import Pass, Problem, competing, operators_of
from bench.run.measure import failure, measure, tiles_of, untimed
from bench.run.roof import Ceilings, ceilings
from bench.run.timing import BUDGET


class Session:
    """Measures each problem once, all contenders side by side. On a CPU, layers are scaled down to what it can do."""

    def __init__(self, device: torch.device, contenders: Sequence[str], dtypes: Sequence[str]) -> None:
        self.device = device
        self.contenders = contenders
        self.dtypes = dtypes
        self.environment = results.environment(device)
        self.ceilings: Ceilings = ceilings(dtypes, device)
        self.small = device.type != "cuda"
        self.budget = BUDGET / 10 if self.small else BUDGET
        self._problem: Problem | None = None
        self._rows: dict[tuple[str, str, str], list[results.Row]] = {}

    def scaled(self, layer: Layer) -> Layer:
        return layer.scaled_down() if self.small else layer

    def problem(self, layer: Layer, dtype: str) -> Problem:
        """The operands of a layer: those of one at a time are kept."""
        held = self._problem
        if held is None or (held.layer.name, held.dtype) != (layer.name, dtype):
            self._problem = held = None  # before the next is drawn, for memory
            self._problem = Problem.draw(self.scaled(layer), dtype, self.device)
        assert self._problem is not None
        return self._problem

    def measure(self, layer: Layer, of: Pass, dtype: str) -> list[results.Row]:
        """One row for each contender, whatever happens: only a GPU that is lost raises."""
        about = (layer.name, of, dtype)
        if about not in self._rows:
            contenders = competing(self.contenders, layer)
            try:
                given = (contenders, self.ceilings, self.environment, self.budget)
                self._rows[about] = measure(self.problem(layer, dtype), of, *given)
            except Exception as error:
                outcome = failure(error, self.device)
                self._rows[about] = untimed(layer, of, dtype, contenders, commit=self.environment["commit"], **outcome)
        return self._rows[about]

    def tiles(self, layer: Layer, of: Pass, dtype: str) -> dict[str, str]:
        """The tile that each operator of a pass chooses here."""
        return tiles_of(self.scaled(layer), of, dtype, self.device)

    def precompile(self, passes: Iterable[tuple[Layer, Pass, str]]) -> int:
        """Compile what the passes will launch, in parallel processes. Returns how many kernels; none on a CPU."""
        if self.small:
            return 0
        from bench.lowering.offline import plan_for, precompile
        from tritonconv import runtime

        gpu = runtime.gpu_of(self.device)
        wanted = {
            (layer, operator, dtype, of == "forward")
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
        return [row for rows in self._rows.values() for row in rows]

    def record(self) -> dict[str, Any]:
        """All of `bench.results` but the rows."""
        about: dict[str, Any] = {"environment": self.environment, "ceilings": self.ceilings}
        if self.small:
            about["rehearsal"] = "on a CPU, layers scaled down"
        return about
