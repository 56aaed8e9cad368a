"""Compares rows of `bench lowering` with committed ones: which figures of which kernels got worse, in words."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.lowering.table import KEYS, Row, title

# By which share the bound of a step may get longer if the host makes the TMA descriptors in the place of programs. Then
# they are parameters of the kernel, and ptxas computes the address of a parameter anew at each copy. In return, the
# kernel starts faster (`START_UP` in tritonconv/tiling/cost.py).
LONGER = 0.15


def key(row: Row) -> tuple[Any, ...]:
    """Return the values of a row that identify its kernel (KEYS), and the version of Triton that compiled it."""
    return tuple(row[name] for name in (*KEYS, "triton"))


def by_host(row: Row) -> bool:
    """Whether the kernel of a row takes TMA descriptors that the host makes. Older rows do not say so: none does."""
    return bool(row.get("host_descriptors", False))


def regressions(rows: Sequence[Row], committed: Sequence[Row], tolerance: float = 0.02) -> list[str]:
    """Return a line for each figure in `rows` that is worse than in `committed`: what got worse, and by how much.

    Spilled bytes and shared memory may not grow, and occupancy may not fall. The opcodes that multiply and that copy
    may not change. The instructions of a step may not grow by more than the share `tolerance`. They may not be None in
    only one of both rows. Only rows of the same kernel and version of Triton are compared (`pairs`).

    If the host makes the descriptors of only one of both rows, the instructions of a step count only as far as its
    bound gets longer: by no more than the share LONGER.
    """
    return [
        f"{title(row)}: {line}"
        for row, old in pairs(rows, committed)
        for line in (*worse_resources(row, old), *worse_loop(row, old, tolerance))
    ]


def worse_resources(row: Row, old: Row) -> Iterator[str]:
    """Yield a line for the spills, the shared memory, the opcodes and the occupancy of `row` that are worse."""
    for name, what in (("spill_bytes", "bytes spilled"), ("shared_bytes", "bytes of shared memory")):
        if row[name] > old[name]:
            yield more(row[name], old[name], what)
    for name, what in (("mma", "other opcodes multiply"), ("copy", "other opcodes copy")):
        if row[name] != old[name]:
            yield f"{what}: {old[name] or 'none'} -> {row[name] or 'none'}"
    if row["occupancy"] < old["occupancy"]:
        now, then = row.get("registers"), old.get("registers")
        why = f" ({more(now, then, 'registers')})" if now and then and now > then else ""
        yield f"lower occupancy: {old['occupancy']} -> {row['occupancy']}{why}"


def worse_loop(row: Row, old: Row, tolerance: float) -> Iterator[str]:
    """Yield a line if a step of the main loop takes more instructions, or has a lower bound, than may be."""
    same_way = by_host(row) == by_host(old)
    now, then = row["instructions_per_step"], old["instructions_per_step"]
    if now is None and then is not None:
        yield f"no main loop is found: it took {then} instructions a step"
    if now is not None and then is None:
        yield f"a main loop is found where there was none: {now} instructions a step"
    if None in (now, then):
        return
    if same_way and now > then * (1 + tolerance):
        yield f"{more(now, then, 'instructions a step')}, {now / then - 1:.0%} more"
    if not same_way and row["bound_tflops"] * (1 + LONGER) < old["bound_tflops"]:
        lower = 1 - row["bound_tflops"] / old["bound_tflops"]
        yield f"a lower bound, by {lower:.0%}: {old['bound_tflops']} -> {row['bound_tflops']} TFLOP/s"


def more(now: int, then: int, what: str) -> str:
    """Return by how much a figure grew, in words: "12 more registers: 168 -> 180"."""
    return f"{now - then:,} more {what}: {then:,} -> {now:,}"


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
    return (
        f"{line}: at most {most - before} more ({before} -> {most}), and at most {now / then - 1:.0%} ({title(row)})."
    )


def compared(rows: Sequence[Row], committed: Sequence[Row]) -> int:
    """Return how many of `rows` have a committed row to be compared with."""
    return len(pairs(rows, committed))


def pairs(rows: Sequence[Row], committed: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return pairs of a row and the committed row of the same kernel and version of Triton, where there is one."""
    before = {key(row): row for row in committed}
    return [(row, before[key(row)]) for row in rows if key(row) in before]
