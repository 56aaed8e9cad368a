"""Work that may be stopped at any moment: a clock, and a record on disk that is valid JSON after every unit of work."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bench import results

Unit = TypeVar("Unit")


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
        self.content: dict[str, Any] = {**about, "complete": False, "stopped": "killed", "remaining": None, "rows": []}
        self.save()

    def save(self) -> None:
        results.save(self.path, self.content)

    def plan(self, names: Iterable[str]) -> None:
        """Write which units are planned, by name."""
        self.content["remaining"] = list(names)
        self.save()

    def show(self, rows: list[results.Row]) -> None:
        """Write the rows so far of a unit that goes on.

        The record does not keep them: the next call writes the file without them, unless it passes them again.
        """
        results.save(self.path, self.content | {"rows": [*self.content["rows"], *rows]})

    def add(self, name: str, rows: Iterable[results.Row]) -> None:
        """Add the rows of a unit that is done, and write the file."""
        self.content["rows"] += rows
        self.content["remaining"].remove(name)
        self.save()

    def close(self, stopped: str | None = None) -> None:
        """End the record. If units remain and no reason is given, the reason is that the time was up."""
        if stopped is None and self.content["remaining"]:
            stopped = "the time was up"
        self.content |= {"stopped": stopped, "complete": stopped is None}
        self.save()


def in_time(units: Iterable[Unit], clock: Clock, reserve: float = 0.0) -> Iterator[Unit]:
    """Yield units while there is time for one more: as long as the longest unit so far took, plus `reserve` seconds."""
    longest = 0.0
    for unit in units:
        before = clock.left()
        if before < longest + reserve or before <= 0:
            return
        yield unit
        longest = max(longest, before - clock.left())
