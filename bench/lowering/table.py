"""The rows of `bench lowering` as tables. This module imports no compiler: reports use it too."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import table
from bench.results import read_rows

Row = dict[str, Any]

# The fields that say which kernel a row is of. The other fields are what was found.
KEYS = ("kernel", "tile", "dtype", "arch", "x_vector", "y_vector")

COLUMNS = {
    "kernel": "kernel",
    "tile": "tile",
    "dtype": "dtype",
    "arch": "arch",
    "x": "x_vector",
    "y": "y_vector",
    "regs": "registers",
    "spill": "spill_bytes",
    "shared": "shared_bytes",
    "occup.": "occupancy",
    "instr/step": "instructions_per_step",
    "/mma cycle": "instructions_per_mma_cycle",
    "FFMA": "ffma_share",
    "bound": "bound_tflops",
    "layers": "layers",
    "mma": "mma",
    "copy": "copy",
}
LEGEND = """\
x, y        adjacent channels of the image and of the features that are loaded or stored at once.
regs        registers of each thread. spill: bytes of them that are spilled to memory.
shared      bytes of shared memory. occup.: the share of a multiprocessor's warps that can run at once.
instr/step  instructions that each warp issues in one step of the main loop.
/mma cycle  instructions of all warps in a step, for each cycle that the tensor cores need for it. 4 can be issued.
FFMA        the share of FMAs among the instructions of the main loop, if it does not use tensor cores.
bound       TFLOP/s of the data sheet's GPU if only multiplying and issuing instructions took time.
layers      how many benchmark layers run with this kernel and tile.
mma, copy   the opcodes that multiply on tensor cores, and that copy into shared memory asynchronously.
Nothing here was measured on a GPU."""


# The figures of a kernel's line in `overview`, each with the function that picks the worst one.
WORST = {"regs": max, "shared": max, "occup.": min, "instr/step": max, "/mma cycle": max, "FFMA": min, "bound": min}


def named(row: Row) -> str:
    """Return the name of a row's kernel for a sentence: "fprop 64x64x32w8s2, bfloat16 on sm_90, x8 y8"."""
    return "{kernel} {tile}, {dtype} on {arch}, x{x_vector} y{y_vector}".format_map(row)


def full(rows: Sequence[Row], without: Sequence[str] = ()) -> str:
    """Return a table with every row, without some of COLUMNS. It shows the number of layers, not their names."""
    shown = {column: name for column, name in COLUMNS.items() if column not in without}
    body = [[len(row[name]) if name == "layers" else row[name] for name in shown.values()] for row in rows]
    return table.columns(list(shown), body)


def overview(rows: Sequence[Row]) -> str:
    """Return a table with a line for each kernel: how many were compiled, how many spill, and the worst figures."""
    body = []
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        mine = [row for row in rows if row["kernel"] == kernel]
        body.append([kernel, len(mine), sum(row["spill_bytes"] > 0 for row in mine)])
        for column, pick in WORST.items():
            values = [row[COLUMNS[column]] for row in mine if row[COLUMNS[column]] is not None]
            body[-1].append(pick(values) if values else None)
    return table.columns(["kernel", "compiled", "spill", *WORST], body)


def worst(rows: Sequence[Row], most: int) -> str:
    """Return a table of at most `most` rows: those that spill most, and then those that issue most per mma cycle."""
    order = sorted(rows, key=lambda row: (-row["spill_bytes"], -(row["instructions_per_mma_cycle"] or 0)))
    return full(order[:most], without=("FFMA", "mma", "copy"))


def by_architecture(rows: Sequence[Row]) -> str:
    """Return a table of how many rows there are for each architecture and dtype."""
    archs, dtypes = (list(dict.fromkeys(row[name] for row in rows)) for name in ("arch", "dtype"))
    found = Counter((row["arch"], row["dtype"]) for row in rows)
    return table.columns(["", *dtypes], [[arch, *(found[arch, dtype] for dtype in dtypes)] for arch in archs])


def summary(path: Path, dtype: str = "bfloat16", arch: str = "sm_90", most: int = 3) -> str:
    """Return a Markdown table of the rows in a file, and a paragraph that explains it.

    The table has the kernels that multiply on tensor cores, in `dtype` on `arch`. For each kernel it has the `most`
    tiles that most of the benchmark's layers run with. The README shows the table if no GPU has been measured.
    """
    compiled = read_rows(path)
    body = []
    for kernel in dict.fromkeys(row["kernel"] for row in compiled if row["mma"] and row["layers"]):
        wanted = (arch, dtype, kernel)
        rows = [row for row in compiled if row["layers"] and (row["arch"], row["dtype"], row["kernel"]) == wanted]
        layers = len({layer for row in rows for layer in row["layers"]})
        for row in sorted(rows, key=lambda row: -len(row["layers"]))[:most]:
            names = ("registers", "instructions_per_step", "instructions_per_mma_cycle", "bound_tflops")
            share = f"{len(row['layers'])} of {layers}"
            body.append([f"`{kernel}`", row["tile"], share, *(row[name] for name in names)])
    header = ["kernel", "tile", "layers", "registers", "instr./step", "per mma cycle", "limit"]
    spilled = [row for row in compiled if row["spill_bytes"]]
    archs = ", ".join(dict.fromkeys(row["arch"] for row in spilled))
    text = f"""{dtype} on {arch}: for each kernel the {most} tiles that most of the benchmark's layers run with. A tile
        is BLOCK_M x BLOCK_N x BLOCK_K, warps and stages. "instr./step" counts the instructions of each warp in one step
        of the main loop. "per mma cycle" counts those of all warps in each cycle of the tensor cores, in which 4 can be
        issued. "limit" is the TFLOP/s of the data sheet's GPU if only its tensor cores and the issue of instructions
        took time; work beyond the edges of a result counts. It is no forecast, and nothing was measured. All
        {len(compiled)} kernels, compiled with Triton {compiled[0]["triton"]}, are in
        [bench/results/lowering.json](bench/results/lowering.json); {len(spilled)} of them spill registers ({archs})."""
    return f"{table.markdown(header, body)}\n\n{textwrap.fill(' '.join(text.split()), 120, break_on_hyphens=False)}"
