"""What `pytest bench` shows: the layer that is measured, how many are done, the time left, and at the end a summary."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from bench import noise
from bench.run.session import Session

# From how many seconds on the time that is left is said in minutes.
LONG = 120


class Unit(NamedTuple):
    """One pass of a layer in one dtype, by name. All its contenders are measured together."""

    dtype: str
    layer: str
    of: str


class Progress:
    """The progress of a run over `units`, in their order.

    In a log, each layer gets one line when all its passes are done. On a terminal there is also a line that names the
    current pass, and is written again and again. `screen` is pytest's terminal reporter.
    """

    def __init__(self, units: Sequence[Unit], screen: Any, now: Callable[[], float] = time.monotonic) -> None:
        self.units, self.screen, self.now = list(units), screen, now
        self.passes = Counter(unit[:2] for unit in units)
        self.several = len({unit.dtype for unit in units}) > 1
        self.seconds: list[float] = []
        self.failed: Counter[tuple[str, str]] = Counter()
        self.current: Unit | None = None
        self.since = now()

    def begin(self, unit: Unit) -> None:
        """Note that a pass begins to be measured."""
        self.current, self.since = unit, self.now()
        if self.screen.isatty:
            what = f"{self.name(unit)} {unit.of}: {len(self.seconds)} of {len(self.units)} passes done"
            self.screen.rewrite(f"{what}{self.left()}", erase=True, flush=True)

    def prepared(self) -> None:
        """Note that the ceilings are measured. The first pass has begun before, and its time counts from here on."""
        self.since = self.now()

    def fail(self) -> None:
        """Note that a contender of the current pass failed, or that its result was wrong."""
        if self.current is not None:
            self.failed[self.current[:2]] += 1

    def end(self) -> None:
        """Note that the current pass is done. Write the line of its layer if it was the last pass of the layer."""
        unit = self.current
        assert unit is not None
        self.seconds.append(self.now() - self.since)
        following = self.units[len(self.seconds) :][:1]
        if following and following[0][:2] == unit[:2]:
            return
        self.write(self.line(unit))

    def write(self, line: str) -> None:
        """Write a line that stays."""
        if self.screen.isatty:
            self.screen.rewrite(line, erase=True)
            self.screen.write("\n", flush=True)
        else:
            self.screen.write_line(line, flush=True)

    def line(self, unit: Unit) -> str:
        """Return the line of a layer whose last pass has just been done."""
        done, count = self.units[: len(self.seconds)], self.passes[unit[:2]]
        layers = len({each[:2] for each in done})
        width = max(len(self.name(each)) for each in self.units)
        took = f"{self.name(unit):{width}}  {many(count, 'pass', 'passes')} in {sum(self.seconds[-count:]):4.1f} s"
        wrong = f", {self.failed[unit[:2]]} FAILED" if self.failed[unit[:2]] else ""
        return f"{took}{wrong}; {layers:2} of {len(self.passes)} layers{self.left()}"

    def name(self, unit: Unit) -> str:
        """Return the name of a pass's layer, with its dtype if the run has several."""
        return f"{unit.layer} {unit.dtype}" if self.several else unit.layer

    def left(self) -> str:
        """Return about how much time is left, by the mean of the passes so far: "" at the start and at the end."""
        rest = len(self.units) - len(self.seconds)
        if not self.seconds or not rest:
            return ""
        seconds = rest * fmean(self.seconds)
        return f", about {f'{seconds / 60:.0f} min' if seconds >= LONG else f'{max(1, seconds):.0f} s'} left"


def summary(session: Session, rows: str, spread: float | None) -> list[str]:
    """Return lines that say what was measured, and whether the machine was busy.

    `rows` is the option of that name, and `spread` says how much the times of a small product vary (`noise.Pulse`).
    """
    found = session.rows()
    layers, passes = ([*dict.fromkeys(row[name] for row in found)] for name in ("layer", "pass"))
    counts = Counter("timed" if row["status"] == "ok" else row["status"] for row in found)
    outcome = ", ".join(f"{count} {status}" for status, count in counts.items())
    about = "; ".join(", ".join(names) for names in (passes, session.dtypes, session.contenders))
    lines = [f"{many(len(layers), 'layer', 'layers')}; {about}: {outcome}."]
    if session.small:
        lines.append("Without a GPU this is a rehearsal on small versions of the layers. Its times are no results.")
    if busy := noise.verdict(spread, noise.of_rows(found)):
        lines.append(busy)
    if rows == "smoke":
        lines.append('These are the smoke layers. To measure all layers: make bench ARGS="--rows all"')
    return lines


def many(count: int, one: str, several: str) -> str:
    """Return a count with the word for what is counted: "1 pass" or "5 passes"."""
    return f"{count} {one if count == 1 else several}"
