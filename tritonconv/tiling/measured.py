"""The tiles that were measured to be fastest, in a table for each GPU.

`python -m bench tune` writes the tables to `measured_tiles/`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tritonconv.geometry import ConvGeometry, Operator

FOLDER = Path(__file__).with_name("measured_tiles")
# A tile: the fields of `tritonconv.tiling.tile.Tile` in their order.
Blocks = tuple[int, ...]
# The key of a row: the operands and the problem that its tile was measured for.
Key = tuple[Any, ...]


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
def table(gpu: str) -> dict[Key, Blocks]:
    """Return the table for the GPU of that name: a dict from keys to tiles. It is empty if there is no table."""
    path = FOLDER / file_of(gpu)
    if not gpu or not path.exists():
        return {}
    return {tuple(row["key"]): tuple(row["tile"]) for row in json.loads(path.read_text())["rows"]}


@cache
def everywhere(operator: Operator, *operands: Any) -> list[Blocks]:
    """Return the tiles that the tables of all GPUs have for the operator and these operands, each once.

    `operands` are the fields of `tritonconv.tiling.tile.Operands`.
    """
    wanted = (operator, *operands)
    paths = sorted(FOLDER.glob("*.json")) if FOLDER.exists() else []
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    return list(dict.fromkeys(tuple(row["tile"]) for row in rows if tuple(row["key"][: len(wanted)]) == wanted))
