"""Whether the machine was busy during a run. Its own times tell: the same work takes longer while others compute."""

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch

# How many products are timed after the first pass, and after each later one. They take milliseconds, but seconds on a
# busy machine, where a product waits for its threads.
FIRST, LATER = 10, 3
# The machine was busy if the product's times vary by more than MOST, or those of the middle row by more than
# MOST_OF_ROWS. In the committed records, the middle row varies by 1.07 times on a CPU and by 1.18 times on an H200.
MOST, MOST_OF_ROWS = 2.0, 1.4


def spread(values: Sequence[float]) -> float:
    """Return how many times as large the 80th percentile of the values is as their 20th. There are at least two."""
    fifths = quantiles(values, n=5, method="inclusive")
    return fifths[-1] / fifths[0]


def of_rows(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the median, over rows of a record, of how much the eager times of a row vary. None without such times."""
    found = [row["wall_us"]["p80"] / row["wall_us"]["p20"] for row in rows if row.get("wall_us")]
    return median(found) if found else None


class Pulse:
    """Times of a small product on the CPU, with all threads, that are taken again and again during a run."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.factor = torch.ones(256, 256)
        self.seconds: list[float] = []

    def beat(self) -> None:
        """Time some products. The first call also lets torch start its threads."""
        if not self.seconds:
            self._product()
        for _ in range(LATER if self.seconds else FIRST):
            start = self.now()
            self._product()
            self.seconds.append(self.now() - start)

    def _product(self) -> torch.Tensor:
        return self.factor @ self.factor

    @property
    def spread(self) -> float | None:
        """How much the times vary, or None if there are none."""
        return spread(self.seconds) if self.seconds else None


def verdict(of_product: float | None, of_rows: float | None) -> str | None:
    """Return a sentence that says whether the machine was busy, by both spreads. None if neither is known."""
    known = {"one small product": of_product, "a call": of_rows}
    said = [f"{times(value)} for {what}" for what, value in known.items() if value is not None]
    if not said:
        return None
    vary = f"times vary by {' and '.join(said)} (p80 over p20)"
    if (of_product or 1) > MOST or (of_rows or 1) > MOST_OF_ROWS:
        return f"The machine was busy: {vary}. Ratios are unreliable."
    return f"The machine did not seem busy: {vary}."


def times(factor: float) -> str:
    """Return a factor as text: "2.3 times"."""
    return f"{factor:.0f} times" if factor >= 10 else f"{factor:.2g} times"
