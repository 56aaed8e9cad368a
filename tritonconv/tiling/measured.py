"""The tiles that were measured to be fastest, in a table for each GPU that was tuned.

`python -m bench tune` writes the tables to `measured_tiles/`. A table says the architecture of its GPU and the number
of its multiprocessors. It serves this GPU and those like it (`Gpu.alike`). So an H100 takes the tiles of an H200.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Gpu

FOLDER = Path(__file__).with_name("measured_tiles")
# A tile: the fields of `tritonconv.tiling.tile.Tile` in their order.
Blocks = tuple[int, ...]
# The key of a row: the operands and the problem that its tile was measured for.
Key = tuple[Any, ...]


class Row(NamedTuple):
    """A measured tile, and the name of the GPU that it was measured on."""

    tile: Blocks
    gpu: str


def key(geometry: ConvGeometry, operator: Operator, *operands: Any) -> Key:
    """Return the key that a problem has in the tables. `operands` are the fields of `tritonconv.tiling.tile.Operands`.

    Two numbers count only by their bit length: the positions that share a weight, and the weights of a group. So a row
    serves batch sizes near the measured one. Padding and dilation are not in the key, nor are the rows and columns of
    an image.
    """
    channels = (geometry.C // geometry.G, geometry.F // geometry.G, geometry.G)
    taps = (geometry.R, geometry.S, geometry.stride_h, geometry.stride_w)
    positions, _, _, weights = geometry.gemm("fprop")
    octaves = (positions.bit_length(), (weights // geometry.G).bit_length())
    return operator, *operands, *channels, *taps, *octaves


def file_of(gpu: str) -> str:
    """Return the file name of the table for the GPU of that name: "NVIDIA H200" has nvidia-h200.json."""
    return "-".join(gpu.lower().split()).replace("/", "-") + ".json"


@cache
def rows(gpu: Gpu) -> dict[Key, Row]:
    """Return the measured tiles for a GPU, by key. There are none for a GPU without a name.

    For each key, a row of the GPU's own table comes first, then rows of GPUs like it. Of these, the GPU with the
    nearest number of multiprocessors comes first, and of equals the first by name. So all ranks of a distributed run
    agree. A table without an architecture serves only the GPU of its name.
    """
    found: dict[Key, Row] = {}
    ranked = [(rank, table) for table in tables() if (rank := rank_of(table, gpu)) is not None]
    for _, table in sorted(ranked, key=lambda each: each[0], reverse=True):  # later rows replace earlier ones
        found |= {tuple(row["key"]): Row(tuple(row["tile"]), table["gpu"]) for row in table["rows"]}
    return found


def rank_of(table: dict[str, Any], gpu: Gpu) -> tuple[int, str] | None:
    """Return the place of a table among those that serve a GPU, where less is better. None if it does not serve it."""
    if not gpu.name:
        return None
    if table["gpu"] == gpu.name:
        return -1, ""
    if "architecture" not in table:
        return None
    other = Gpu.of(table["architecture"], table["multiprocessors"], table["gpu"])
    return (abs(gpu.multiprocessors - other.multiprocessors), other.name) if gpu.alike(other) else None


@cache
def everywhere(operator: Operator, *operands: Any) -> list[Blocks]:
    """Return the tiles that the tables of all GPUs have for the operator and these operands, each once.

    `operands` are the fields of `tritonconv.tiling.tile.Operands`.
    """
    wanted = (operator, *operands)
    found = [row for table in tables() for row in table["rows"]]
    return list(dict.fromkeys(tuple(row["tile"]) for row in found if tuple(row["key"][: len(wanted)]) == wanted))


def tables() -> list[dict[str, Any]]:
    """Return the tables of all GPUs, as `python -m bench tune` wrote them, in the order of their file names."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))] if FOLDER.exists() else []
