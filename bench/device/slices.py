"""The slices of `bench device`: what each does, in how many seconds, and in which order. The most valuable is first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.device import contests, correctness, estimates, profile, switches, timed, training, tuning
from bench.device.current import PROCESSES
from bench.device.work import Planned, Scene, Work

# The seconds of a call in which every slice has work.
WHOLE = 420.0
# The seconds that stand for no limit. With infinity, no difference of times would be a number.
NO_LIMIT = 1e9


@dataclass(frozen=True)
class Slice:
    """A slice of the work.

    - `what` says what it does, in a few words.
    - `seconds` is its budget, without the start of its processes, of which there are `processes`.
    - `every` plans all its units, also those that have a current result. `run` does what one process does.
    - `file` is the record that it writes.
    """

    name: str
    what: str
    seconds: float
    every: Callable[[Scene], Sequence[Planned]]
    run: Callable[[Work], int]
    file: str
    processes: int = 1
    default: bool = True

    @property
    def whole(self) -> float:
        """The budget with the start of its processes."""
        return self.seconds + self.processes * estimates.START


def of_times(name: str, what: str, seconds: float, units: Callable[[Scene], list[contests.Unit]]) -> Slice:
    """Return a slice that times units in two processes."""
    return Slice(name, what, seconds, contests.every(units), partial(timed.run, name), timed.FILE, PROCESSES)


SLICES = (
    Slice(
        "switches",
        "host descriptors bit by bit, CUDA graphs, dependent launches",
        104.0,
        switches.every,
        switches.run,
        switches.FILE,
    ),
    Slice(
        "correctness",
        "the tests marked gpu, then random problems",
        42.0,
        correctness.every,
        correctness.run,
        correctness.FILE,
    ),
    of_times("torch", "torch alone, the operators of every layer, bfloat16", 36.0, contests.torch_alone),
    of_times("step", "whole steps of six layers beside torch, with host time", 25.0, contests.steps),
    of_times("layers", "every pass of layers with a shared weight, bfloat16", 24.0, contests.dense),
    of_times("varying", "local, per-sample, dynamic and depthwise layers", 12.0, contests.varying),
    Slice("training", "training steps of networks", 62.0, training.every, training.run, training.FILE),
    of_times("precision", "float16, TF32 and NCHW, smoke layers", 10.0, contests.precision),
    Slice("tuning", "promising tiles of what no table has", 11.0, tuning.every, tuning.run, tuning.FILE),
    Slice("profile", "the kernels that torch runs", 60.0, profile.every, profile.run, profile.FILE, default=False),
)
NAMED = {each.name: each for each in SLICES}
DEFAULT = tuple(each for each in SLICES if each.default)


def deadlines(slices: Sequence[Slice], seconds: float | None) -> list[float]:
    """Return, for each slice, after how many seconds from the start of the command it must have ended.

    A slice that ends early leaves its time to those after it. `seconds` is the time of all slices together; it scales
    their budgets. None leaves the budgets as they are, and inf stands for years.
    """
    ends, total = [], estimates.FIRST
    for each in slices:
        total += each.whole
        ends.append(total)
    return ends if seconds is None else [end * min(seconds, NO_LIMIT) / total for end in ends]
