"""Tables of measured tiles that tests write in the place of the package's."""

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tiling import measured, pick
from tritonconv.tiling.tile import Operands, Tile

GEOMETRY = ConvGeometry(128, 256, 16, 16, 256, 14, 14, 3, 3)
OPERANDS = Operands(2, 8)


def row_for(tile: Tile, operator: Operator = "fprop", geometry: ConvGeometry = GEOMETRY) -> dict[str, Any]:
    """Return a row of a table of measured tiles that says that `tile` is the fastest for this problem."""
    return {"key": list(measured.key(geometry, operator, *astuple(OPERANDS))), "tile": list(astuple(tile))}


def empty_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put an empty folder in the place of the package's tables, and clear the caches of `pick` and `measured`.

    Yield the folder, and clear the caches again afterwards: a fixture yields from this.
    """
    monkeypatch.setattr(measured, "FOLDER", folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    """Clear the caches of what was read from tables."""
    for function in (measured.rows, measured.everywhere, pick.pick):
        function.cache_clear()
