"""`BoundedCache`: a cache that evicts its least recently used entries. `clear` empties every such cache."""

import os
import threading
from collections.abc import Hashable
from heapq import nsmallest
from itertools import count
from typing import Generic, Protocol, TypeVar

# How many entries each cache holds at most.
CAPACITY = 4096


class Entry(Protocol):
    """A value of a cache. `used` grows with each use, so the least recently used entry has the smallest."""

    used: int


T = TypeVar("T", bound=Entry)

# Counts the uses of all entries. An ordered dictionary would hash the key once more for each use, which takes 50 times
# as long as to store a number.
uses = count()
_caches: "list[BoundedCache[Entry]]" = []
# Held while entries are added or removed. Reading does not take it.
_changing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_changing.release)

# How often the caches were cleared. What was made before the last time is not added.
_generation = 0


def generation() -> int:
    """Return a number that changes when what was made before must not be added to a cache."""
    return _generation


def clear() -> None:
    """Empty all caches, because the same calls may be planned differently from now on."""
    global _generation
    with _changing:
        _generation += 1
        for each in _caches:
            each.entries.clear()


class BoundedCache(Generic[T]):
    """A cache of at most CAPACITY entries. `entries` are the entries by their keys."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, T] = {}
        _caches.append(self)  # type: ignore[arg-type]

    def get(self, key: Hashable) -> T | None:
        """Return the entry of this key, which counts as used now, or None if there is none."""
        found = self.entries.get(key)
        if found is not None:
            found.used = next(uses)
        return found

    def add(self, key: Hashable, entry: T, generation: int) -> None:
        """Add an entry, unless the generation that it was made in is over.

        If there are then too many, the least recently used ones are evicted: a sixty-fourth of all at once, because the
        search for them looks at all entries.
        """
        with _changing:
            if generation != _generation:
                return
            entry.used = next(uses)
            self.entries[key] = entry
            if len(self.entries) > CAPACITY:
                evicted = nsmallest(max(1, CAPACITY // 64), self.entries.items(), key=lambda item: item[1].used)
                for old, _ in evicted:
                    del self.entries[old]
