"""The rows of `bench lowering` as tables. Needs no compiler."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import table

Row = dict[str, Any]

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
x, y: adjacent channels of the image and of the features that are loaded or stored at once. instr/step: instructions of
each warp in one step of the main loop; /mma cycle: of all warps for each cycle that the tensor cores need for the step,
of which 4 can be issued. bound: TFLOP/s of the data sheet's GPU if nothing but tensor cores, or FMAs, and the issue of
instructions took time. layers: how many benchmark layers choose the tile. Nothing here was measured on a GPU."""


def load(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text())
    return rows


def full(rows: Sequence[Row]) -> str:
    """Every row, in columns."""
    body = [[len(row[name]) if name == "layers" else row[name] for name in COLUMNS.values()] for row in rows]
    return table.columns(list(COLUMNS), body)


def by_architecture(rows: Sequence[Row]) -> str:
    """How many kernels there are for each architecture and dtype."""
    archs, dtypes = (list(dict.fromkeys(row[name] for row in rows)) for name in ("arch", "dtype"))
    found = Counter((row["arch"], row["dtype"]) for row in rows)
    return table.columns(["", *dtypes], [[arch, *(found[arch, dtype] for dtype in dtypes)] for arch in archs])


def summary(path: Path, dtype: str = "bfloat16", arch: str = "sm_90", most: int = 3) -> str:
    """In Markdown, for each kernel the tiles that most of the benchmark's layers choose."""
    compiled = load(path)
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
    text = f"""{dtype} on {arch}, the {most} tiles that most of the benchmark's layers choose: BLOCK_M x BLOCK_N x
        BLOCK_K, warps, stages. Instructions of each warp per step of the main loop, and of all warps per cycle of the
        tensor cores, of which 4 can be issued; limit: TFLOP/s of the data sheet's GPU if nothing but its tensor cores
        and the issue of instructions took time, what a tile overhangs counted as work: no forecast, and nothing that
        was measured. All of it, for {len(compiled)} kernels compiled with Triton {compiled[0]["triton"]}, is in
        [bench/results/lowering.json](bench/results/lowering.json); {len(spilled)} of them spill registers ({archs})."""
    return f"{table.markdown(header, body)}\n\n{textwrap.fill(' '.join(text.split()), 120, break_on_hyphens=False)}"
