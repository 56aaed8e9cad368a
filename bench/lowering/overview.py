"""What `bench lowering` prints by default: a line for each kernel, and the rows that are worst. It fits a screen."""

from collections.abc import Iterable, Sequence
from typing import Any

from bench import table
from bench.lowering.table import LEGEND, Row, full

# The most lines of a list, and the most rows of which every one is shown.
MOST, ROWS = 10, 20
# How many of the kernels are shown that issue most instructions for each cycle of the tensor cores.
WORST = 5

HEADER = ("kernel", "compiled", "spill", "regs", "occup.", "instr/step", "/mma cycle")
SHORT_LEGEND = """\
compiled    how many kernels of this name: with other tiles, dtypes, vectors or architectures.
spill       how many of them spill registers to memory.
regs        the most registers of a thread. occup.: the lowest share of a multiprocessor's warps that can run at once.
instr/step  the fewest and the most instructions that each warp issues in one step of the main loop.
/mma cycle  the most instructions of all warps in a step, for each cycle that the tensor cores need. 4 can be issued.
bound       TFLOP/s of the data sheet's GPU if only multiplying and issuing instructions took time.
layers      how many benchmark layers run with this kernel and tile.
Nothing here was measured on a GPU."""


def overview(rows: Sequence[Row], long: bool = False) -> str:
    """Return a legend and the table of all rows if `long` or if they fit a screen, or else one line for each kernel."""
    if long or len(rows) <= ROWS:
        return f"{LEGEND}\n\n{full(rows)}"
    names = dict.fromkeys(row["kernel"] for row in rows)
    lines = [of_kernel(name, [row for row in rows if row["kernel"] == name]) for name in names]
    parts = [SHORT_LEGEND, table.columns(HEADER, lines)]
    if worst := most_instructions(rows):
        shown = ("kernel", "tile", "dtype", "arch", "regs", "occup.", "instr/step", "/mma cycle", "bound", "layers")
        parts.append(f"These issue most for each cycle of the tensor cores:\n{full(worst, columns=shown)}")
    return "\n\n".join([*parts, f"--long shows all {len(rows):,} kernels, with every column."])


def of_kernel(name: str, rows: Sequence[Row]) -> list[Any]:
    """Return the line of a kernel, with the columns of HEADER. None stands where no row has a value."""
    steps, cycles = (values(rows, field) for field in ("instructions_per_step", "instructions_per_mma_cycle"))
    return [
        name,
        len(rows),
        sum(row["spill_bytes"] > 0 for row in rows),
        max(values(rows, "registers"), default=None),
        min(values(rows, "occupancy"), default=None),
        f"{min(steps)} to {max(steps)}" if steps else None,
        max(cycles, default=None),
    ]


def values(rows: Iterable[Row], field: str) -> list[Any]:
    return [row[field] for row in rows if row[field] is not None]


def most_instructions(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with most instructions for each cycle of the tensor cores, at most WORST, the worst first."""
    found = [row for row in rows if row["instructions_per_mma_cycle"] is not None]
    return sorted(found, key=lambda row: -row["instructions_per_mma_cycle"])[:WORST]


def listed(lines: Sequence[str], long: bool = False) -> str:
    """Return the lines as text. Unless `long`, return the first of them and say how many are left out."""
    if long or len(lines) <= MOST:
        return "\n".join(lines)
    return "\n".join([*lines[:MOST], f"and {len(lines) - MOST:,} more: --long shows them"])
