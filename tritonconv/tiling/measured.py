"""The tiles that were measured to be best, by GPU: tables in `measured_tiles/`, which `python -m bench tune` writes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tritonconv.geometry import ConvGeometry, Operator

FOLDER = Path(__file__).with_name("measured_tiles")
# A tile: the fields of `tritonconv.tiling.tile.Tile` in their order.
Blocks = tuple[int, ...]
# What a tile is measured for.
Key = tuple[Any, ...]


def key(geometry: ConvGeometry, operator: Operator, *operands: Any) -> Key:
    """What decides which tile is best, as far as the tables tell things apart. `operands` are the fields of
    `tritonconv.tiling.tile.Operands`.

    The number of positions that share a weight counts by its power of two, so that a row serves the batch sizes near
    the measured one, and so does the number of weights. Padding and dilation do not count, nor does the shape of an
    image beside its size.
    """
    channels = (geometry.C // geometry.G, geometry.F // geometry.G, geometry.G)
    taps = (geometry.R, geometry.S, geometry.stride_h, geometry.stride_w)
    positions, _, _, weights = geometry.gemm("fprop")
    octaves = (positions.bit_length(), (weights // geometry.G).bit_length())
    return operator, *operands, *channels, *taps, *octaves


def file_of(gpu: str) -> str:
    """Where the table of the GPU of that name is: "NVIDIA H200" has nvidia-h200.json."""
    return "-".join(gpu.lower().split()).replace("/", "-") + ".json"


@cache
def table(gpu: str) -> dict[Key, Blocks]:
    """The rows for the GPU of that name; none if it has no table."""
    path = FOLDER / file_of(gpu)
    if not gpu or not path.exists():
        return {}
    return {tuple(row["key"]): tuple(row["tile"]) for row in json.loads(path.read_text())["rows"]}


@cache
def everywhere(operator: Operator, *operands: Any) -> list[Blocks]:
    """The tiles that any table has for such operands, each once."""
    wanted = (operator, *operands)
    paths = sorted(FOLDER.glob("*.json")) if FOLDER.exists() else []
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    return list(dict.fromkeys(tuple(row["tile"]) for row in rows if tuple(row["key"][: len(wanted)]) == wanted))
