"""The rows of `bench lowering` as tables. Needs no compiler."""

import json
import textwrap
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
of which 4 can be issued. bound: TFLOP/s of the data sheet's chip if nothing but tensor cores, or FMAs, and the issue of
instructions took time. layers: how many benchmark layers choose the tile. Nothing here was measured on a GPU."""


def load(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text())
    return rows


def full(rows: Sequence[Row]) -> str:
    """Every row, in columns."""
    body = [[len(row[name]) if name == "layers" else row[name] for name in COLUMNS.values()] for row in rows]
    return table.columns(list(COLUMNS), body)


def summary(path: Path, dtype: str = "bfloat16", archs: Sequence[str] = ("sm_80", "sm_90", "sm_100")) -> str:
    """In Markdown, for each architecture and kernel the tile that most of the benchmark's layers choose."""
    rows = [row for row in load(path) if row["dtype"] == dtype and row["mma"]]
    body = []
    for arch in archs:
        for kernel in dict.fromkeys(row["kernel"] for row in rows):
            of_kernel = [row for row in rows if (row["arch"], row["kernel"]) == (arch, kernel)]
            best = max(of_kernel, key=lambda row: len(row["layers"]))
            names = ("registers", "spill_bytes", "instructions_per_step", "instructions_per_mma_cycle", "bound_tflops")
            body.append([f"{arch} `{kernel}`", best["tile"], len(best["layers"]), *(best[name] for name in names)])
    header = ["bfloat16", "tile", "layers", "registers", "spilled", "instr./step", "per mma cycle", "bound"]
    compiled = load(path)
    spilled = sum(row["spill_bytes"] > 0 for row in compiled)
    text = f"""From [bench/results/lowering.json](bench/results/lowering.json): {len(compiled)} kernels compiled with
        Triton {", ".join(sorted({row["triton"] for row in rows}))}, {spilled} of which spill registers. Here, the tile
        that most of the benchmark's layers choose; instructions of each warp per step of the main loop, and of all
        warps per cycle of the tensor cores, of which 4 can be issued; bound: TFLOP/s of the data sheet's chip if
        nothing else took time. None of it was measured."""
    return f"{table.markdown(header, body)}\n\n{textwrap.fill(' '.join(text.split()), 120, break_on_hyphens=False)}"
