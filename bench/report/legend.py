"""What the tables of a report mean. It stands before them."""

from bench.report.compare import NOISE
from bench.report.tuned import MARK, elsewhere, tuned
from bench.results import Results

# What a ratio says, by `Comparison.as_time`.
SAYS = {
    False: "A ratio says how many times as fast as its yardstick a contender is, by medians: above 1 it is faster.",
    True: "A ratio says how many times as long as its yardstick a contender takes, by medians: above 1 it is slower.",
}
NOTE = """\
- The yardstick is torch. It has no layer whose weight varies (local, per sample, dynamic), so these are compared with
  unfold + einsum.
- "device" is a replayed CUDA graph with a cold L2 cache. "eager" is a call as a user makes it.
- In brackets stands the share of the roofline: the time that the ceilings allow over the time taken. The ceilings count
  each operand moved once, and products in the padding too. The time of a step is that of its three operators. A layer
  whose weight varies by location also reads its patches through the L2 cache. It has no share on a CPU.
- "host us" is how long a call keeps the CPU, as a median over the passes. "peak memory" is a multiple of operands and
  results. Both stand for the contender / its yardstick."""
TUNED = (
    f'- "{MARK}" marks a tuned layer, or a tuned tile: it was the fastest in measurements of this layer or one alike.'
)
UNREAD = """\
- Before these times, the L2 cache was cooled by writing. Its lines may have been written back to memory meanwhile."""


def legend(run: Results) -> str:
    """Return what the tables of a run mean, as a list."""
    return "\n".join([NOTE, *marks(run)])


def marks(run: Results) -> list[str]:
    """Return the lines of the legend that only some runs need."""
    names = elsewhere(run["rows"])
    on = [f"- Tuned tiles were measured on another GPU, like this one: {names}."] if names else []
    return [TUNED] * any(tuned(row) for row in run["rows"]) + on + [UNREAD] * written(run)


def written(run: Results) -> bool:
    """Whether some device times of a run were measured after the L2 cache was cooled by writing, not by reading."""
    return any(row.get("device_us") and row.get("cold") != "read" for row in run["rows"])


def because_of_noise(count: int) -> str:
    """Return why that many ratios are left out."""
    return f"in {'it' if count == 1 else 'each'}, the p80 of one of the two times is more than {NOISE:g} times its p20."
