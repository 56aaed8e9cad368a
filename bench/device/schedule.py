"""Work that may be stopped at any moment: a clock, and a record on disk that is valid JSON after every unit of work."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from bench import results

Unit = TypeVar("Unit")
# Fields of an environment that all rows of a record have in common. A record of other code is not continued.
COMMON = ("gpu", "torch", "triton", "cudnn", "commit", "package", "kernels")


class Clock:
    """A clock that tells how many seconds of a time span are left."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self) -> float:
        return self._end - self._now()


class Record:
    """The results of one part of the work, in a file that is written after each addition.

    The file is a record as `bench.results` describes it, with two more fields. `remaining` lists the units that are
    planned and not done yet; it is null before there is a plan. `stopped` says why the work ended before all was done;
    it is "killed" until the record is closed. If all was done, `stopped` is null and `complete` is true.
    """

    def __init__(self, path: Path, **about: Any) -> None:
        self.path = path
        self._written: list[tuple[results.Row, str]] = []
        self.content: dict[str, Any] = {**about, "complete": False, "stopped": "killed", "remaining": None, "rows": []}
        self.save()

    @classmethod
    def continued(cls, path: Path, **about: Any) -> "Record":
        """Return the record in the file `path`, with all its rows, to be continued. Without a file, begin a new one.

        `about` has the fields of a new record. Of an old one, all fields stay as they are. Raise ValueError if the file
        is of other code or of another GPU.
        """
        if not path.exists():
            return cls(path, **about)
        record = cls.__new__(cls)
        record.path, record.content, record._written = path, results.read(path), []
        refuse_other(path, record.content, about)
        record.content |= {"complete": False, "stopped": "killed"}
        record.save()
        return record

    def save(self) -> None:
        """Write the file. Only rows that are new are made into text, because there may be thousands."""
        rows, known = self.content["rows"], self._written
        while known and (len(known) > len(rows) or known[-1][0] is not rows[len(known) - 1]):
            known.pop()
        known += [(row, json.dumps(row)) for row in rows[len(known) :]]
        head = json.dumps({name: value for name, value in self.content.items() if name != "rows"}, indent=1)
        lines = ",\n".join(line for _, line in known)
        results.write(self.path, f'{head[:-2]},\n "rows": [\n{lines}\n]\n}}\n')

    def plan(self, names: Iterable[str]) -> None:
        """Write which units are planned, by name. Units of an earlier plan that were not done stay planned."""
        self.content["remaining"] = list(dict.fromkeys([*(self.content["remaining"] or []), *names]))
        self.save()

    def show(self, rows: list[results.Row]) -> None:
        """Write the rows so far of a unit that goes on.

        The record does not keep them: the next call writes the file without them, unless it passes them again.
        """
        results.save(self.path, self.content | {"rows": [*self.content["rows"], *rows]})

    def add(self, name: str, rows: Iterable[results.Row], done: bool = True) -> None:
        """Add the rows of a unit, and write the file. The unit remains planned if it is not `done`."""
        self.content["rows"] += [finite(row) for row in rows]
        if done and name in self.content["remaining"]:
            self.content["remaining"].remove(name)
        self.save()

    def close(self, stopped: str | None = None) -> None:
        """End the record. If units remain and no reason is given, the reason is that the time was up."""
        if stopped is None and self.content["remaining"]:
            stopped = "the time was up"
        self.content |= {"stopped": stopped, "complete": stopped is None}
        self.save()


def finite(value: Any) -> Any:
    """Return rows or parts of them with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def refuse_other(path: Path, old: results.Results, new: results.Results) -> None:
    """Raise ValueError if a record was made by other code, on another GPU, or otherwise than a new one would be."""
    before, now = old["environment"], new["environment"]
    other = [name for name in COMMON if before.get(name) != now.get(name)]
    if bool(old.get("rehearsal")) != bool(new.get("rehearsal")):
        other.append("rehearsal")
    if other:
        raise ValueError(f"{path} differs in {', '.join(other)}: commit what is there, or give another --out")


def in_time(units: Iterable[Unit], clock: Clock, reserve: float = 0.0) -> Iterator[Unit]:
    """Yield units while there is time for one more: as long as the longest unit so far took, plus `reserve` seconds."""
    longest = 0.0
    for unit in units:
        before = clock.left()
        if before < longest + reserve or before <= 0:
            return
        yield unit
        longest = max(longest, before - clock.left())


class Pace:
    """Decides whether a unit that takes about so many seconds may begin, and learns how long units really take.

    Each unit is done `times` times: once here, and then in as many processes less one, which start after this one. So
    the time that has been spent here is needed again. `reserve` is what all these processes need beside their units.
    """

    def __init__(self, clock: Clock, times: int = 1, reserve: float = 0.0) -> None:
        self.clock, self.times, self.reserve = clock, times, reserve
        self.spent = self.expected = self.overrun = 0.0

    def fits(self, seconds: float) -> bool:
        """Whether a unit may begin that was expected to take `seconds`."""
        slower = max(1.0, self.spent / self.expected) if self.expected else 1.0
        need = self.times * (slower * seconds + self.overrun) + (self.times - 1) * self.spent + self.reserve
        return self.clock.left() > need

    def fitting(self, units: Sequence[Unit], seconds: Callable[[Unit], float], before: float = 0.0) -> list[Unit]:
        """Return the first of `units`, as many as may begin one after another. `before` is what must precede them."""
        total, found = before, []
        for unit in units:
            total += seconds(unit)
            if not self.fits(total):
                break
            found.append(unit)
        return found

    @contextmanager
    def unit(self, seconds: float) -> Iterator[None]:
        """Do a unit within this block, which was expected to take `seconds`."""
        before = self.clock.left()
        yield
        took = before - self.clock.left()
        self.spent, self.expected = self.spent + took, self.expected + seconds
        self.overrun = max(self.overrun, took - seconds)
