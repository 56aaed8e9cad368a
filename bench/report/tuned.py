"""Which layers were tuned: whether a row's tiles come from a table of tiles that were measured on the layer."""

from collections.abc import Iterable
from functools import cache

from bench.results import Results, Row
from bench.run.contenders import DTYPES
from tritonconv.tiling import measured

# What follows the name of a tuned layer, or a tuned tile.
MARK = "*"


def tuned(row: Row) -> bool | None:
    """Whether a tile of a row comes from a table of measured tiles; None if that is unknown, or there is no tile."""
    known: dict[str, bool] = row.get("tuned") or {}
    return any(known.values()) if known else None


def elsewhere(rows: Iterable[Row]) -> str:
    """Return the names of other GPUs that tuned tiles of these rows were measured on. Empty if there are none."""
    return " and ".join(sorted({name for row in rows for name in row.get("tuned_on", ())}))


def completed(run: Results) -> Results:
    """Return a run whose rows of triton all have `tuned`.

    Older rows lack it. For these, an operator counts as tuned if the GPU's own table has the layer, and the tile that
    was measured to be fastest for it is the one that the row ran with.
    """
    best = fastest(run["environment"]["gpu"])

    def lookup(row: Row) -> Row:
        if "tuned" in row or not row.get("tile"):
            return row
        size = DTYPES[row["dtype"]].itemsize
        found = {operator: best.get((row["layer"], operator, size)) == tile for operator, tile in row["tile"].items()}
        return row | {"tuned": found}

    return run | {"rows": [lookup(row) for row in run["rows"]]}


@cache
def fastest(gpu: str | None) -> dict[tuple[str, str, int], str]:
    """Return the name of the tile that was fastest on a GPU, by layer, operator and bytes of an element."""
    return {
        (row["layer"], row["key"][0], row["key"][1]): row["name"]
        for each in measured.tables()
        if each["gpu"] == gpu
        for row in each["rows"]
    }
