"""What got worse in the rows of `bench lowering` since other rows of the same kernels, in words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.lowering.table import KEYS, Row, named

# By which share the bound of a step may get longer if the host makes the TMA descriptors in the place of programs. Then
# they are parameters of the kernel, and ptxas computes the address of a parameter anew at each copy. In return, the
# kernel starts faster (`START_UP` in tritonconv/tiling/cost.py).
LONGER = 0.15


class Worse(NamedTuple):
    """One figure of a kernel that got worse: the kernel's name, what it is in words, and by which share it changed."""

    kernel: str
    what: str
    share: float

    def __str__(self) -> str:
        return f"{self.kernel}: {self.what}"


def key(row: Row) -> tuple[Any, ...]:
    """Return the values of a row that identify its kernel: KEYS, Triton's version, and the geometry if it has one."""
    return *(row[name] for name in (*KEYS, "triton")), row.get("geometry")


def by_host(row: Row) -> bool:
    """Whether the kernel of a row takes TMA descriptors that the host makes. Older rows do not say so: none does."""
    return bool(row.get("host_descriptors", False))


def regressions(rows: Sequence[Row], committed: Sequence[Row], tolerance: float = 0.02) -> list[Worse]:
    """Return each figure in `rows` that is worse than in `committed`, those that changed most first.

    Spilled bytes and shared memory may not grow, and occupancy may not fall. The opcodes that multiply and that copy
    may not change. The instructions of a step may not grow by more than the share `tolerance`. They may not be None in
    only one of both rows. Only rows of the same kernel and version of Triton are compared (`pairs`).

    If the host makes the descriptors of only one of both rows, the instructions of a step count only as far as its
    bound gets longer: by no more than the share LONGER.
    """
    found = [Worse(named(row), *each) for row, old in pairs(rows, committed) for each in worse(row, old, tolerance)]
    return sorted(found, key=lambda each: -each.share)


def worse(row: Row, old: Row, tolerance: float) -> list[tuple[str, float]]:
    """Return what is worse in `row` than in `old` in words, each with the share by which it changed."""
    found = []
    for name, words in (("spill_bytes", "bytes of spills"), ("shared_bytes", "bytes of shared memory")):
        if row[name] > old[name]:
            found.append(grown(words, old[name], row[name]))
    for name, words in (("mma", "multiplies by"), ("copy", "copies by")):
        if row[name] != old[name]:
            found.append((f"{words} {row[name] or 'nothing'}, before by {old[name] or 'nothing'}", 1.0))
    same_way, now, then = by_host(row) == by_host(old), row["instructions_per_step"], old["instructions_per_step"]
    if (now is None) != (then is None):
        found.append(("no main loop is found" if now is None else "a main loop is found, before there was none", 1.0))
    elif same_way and now is not None and now > then * (1 + tolerance):
        found.append(grown("instructions in a step", then, now))
    if not same_way and None not in (now, then) and row["bound_tflops"] * (1 + LONGER) < old["bound_tflops"]:
        found.append(fallen("TFLOP/s by the bound", old["bound_tflops"], row["bound_tflops"]))
    if row["occupancy"] < old["occupancy"]:
        words, share = fallen("occupancy", old["occupancy"], row["occupancy"])
        more = row.get("registers", 0) - old.get("registers", 0)
        why = f", with {grown('registers', old['registers'], row['registers'])[0]}" if more > 0 else ""
        found.append((words + why, share))
    return found


def grown(words: str, then: int, now: int) -> tuple[str, float]:
    """Return the words for a figure that grew from `then` to `now`, and the share: "12 more registers: 168 -> 180"."""
    return f"{now - then} more {words}: {then} -> {now}", now / then - 1 if then else 1.0


def fallen(words: str, then: float, now: float) -> tuple[str, float]:
    """Return the words for a figure that fell from `then` to `now`, and the share that is lost."""
    return f"{1 - now / then:.0%} less {words}: {then} -> {now}", 1 - now / then


def longer_steps(rows: Sequence[Row], committed: Sequence[Row]) -> str:
    """Return a line that says how many of `rows` take more instructions a step than in `committed`, and how many more.

    Only rows are counted that have a main loop in both.
    """
    both = [
        (row, row["instructions_per_step"], old["instructions_per_step"])
        for row, old in pairs(rows, committed)
        if None not in (row["instructions_per_step"], old["instructions_per_step"])
    ]
    longer = [each for each in both if each[1] > each[2]]
    line = f"{len(longer)} of {len(both)} kernels take more instructions a step"
    if not longer:
        return f"{line}."
    _, most, before = max(longer, key=lambda each: each[1] - each[2])
    row, now, then = max(longer, key=lambda each: each[1] / each[2])
    share = f"at most {now / then - 1:.0%} ({named(row)})"
    return f"{line}: at most {most - before} more ({before} -> {most}), and {share}."


def compared(rows: Sequence[Row], committed: Sequence[Row]) -> int:
    """Return how many of `rows` have a committed row to be compared with."""
    return len(pairs(rows, committed))


def pairs(rows: Sequence[Row], committed: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return pairs of a row and the committed row of the same kernel and version of Triton, where there is one."""
    before = {key(row): row for row in committed}
    return [(row, before[key(row)]) for row in rows if key(row) in before]


def said(rows: Sequence[Row], committed: Sequence[Row], name: str, most: int | None = None) -> tuple[str, int]:
    """Return what got worse in words, at most `most` figures, and the exit status: 1 if something did.

    The status is also 1 if nothing could be compared. `name` is that of the committed rows' file.
    """
    found, count = regressions(rows, committed), compared(rows, committed)
    kernels = len({each.kernel for each in found})
    result = f"{kernels} of them are worse" if found else "none is worse"
    lines = [f"{count} of {len(rows)} kernels compared with {name}: {result}."]
    if any(map(by_host, rows)):
        lines.append(longer_steps(rows, committed))
    if not count:
        lines.append("There is nothing to compare: only kernels compiled by the same version of Triton are compared.")
    lines += [f"  {each}" for each in found[:most]]
    if (left := len(found) - len(found[:most])) > 0:
        lines.append(f"  and {left} more figures: --long lists them")
    return "\n".join(lines), int(bool(found) or not count)
