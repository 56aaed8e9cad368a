"""Work that may end at any moment: a clock, and a record on disk that is whole after every unit."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bench import results

Unit = TypeVar("Unit")


class Clock:
    """How much of a time span is left, in seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self) -> float:
        return self._end - self._now()


class Record:
    """What a part of the work has found, written after each addition.

    `rows` is what was found, `remaining` what was planned and not done yet (None before there is a plan); `complete` is
    true in the end if all was done, and else `stopped` says why not.
    """

    def __init__(self, path: Path, **about: Any) -> None:
        self.path = path
        self.content: dict[str, Any] = {**about, "complete": False, "stopped": "killed", "remaining": None, "rows": []}
        self.save()

    def save(self) -> None:
        results.save(self.path, self.content)

    def plan(self, names: Iterable[str]) -> None:
        self.content["remaining"] = list(names)
        self.save()

    def show(self, rows: list[results.Row]) -> None:
        """The rows as they are so far, of a unit that goes on."""
        results.save(self.path, self.content | {"rows": [*self.content["rows"], *rows]})

    def add(self, name: str, rows: Iterable[results.Row]) -> None:
        """The unit of that name is done."""
        self.content["rows"] += rows
        self.content["remaining"].remove(name)
        self.save()

    def close(self, stopped: str | None = None) -> None:
        """Say why it ended, if it did so before all was done."""
        if stopped is None and self.content["remaining"]:
            stopped = "the time was up"
        self.content |= {"stopped": stopped, "complete": stopped is None}
        self.save()


def in_time(units: Iterable[Unit], clock: Clock, reserve: float = 0.0) -> Iterator[Unit]:
    """The units, as long as there is time for one that takes as long as the longest so far, and for `reserve`."""
    longest = 0.0
    for unit in units:
        before = clock.left()
        if before < longest + reserve or before <= 0:
            return
        yield unit
        longest = max(longest, before - clock.left())
