"""The table of measured tiles of one GPU, in `tritonconv/tiling/measured_tiles/`. `tritonconv.tiling.pick` reads it."""

import json
from pathlib import Path
from typing import Any

import torch

from bench import kernel_identity, results
from bench.results import Row
from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling import measured

# The fields of a row of `bench.tune.search.tune` that the table keeps.
KEPT = ("key", "tile", "name", "microseconds", "runner_up", "margin", "tried", "layer")


class Table:
    """The rows of a GPU. They are read from the file `path` if it exists.

    `add` writes the file after each row. So a command that is stopped loses no row, and a later one goes on from them.
    The file says the GPU's name, its architecture and the number of its multiprocessors, because the table also serves
    GPUs like it. `kernels` has the name of each operator's kernels as they are now.

    Raise ValueError if the file is the table of another GPU.
    """

    def __init__(self, path: Path, gpu: Gpu, kernels: dict[str, str]) -> None:
        self.path = path
        self.kernels = kernels
        self.known = kernel_identity.read()
        self.about = {
            "gpu": gpu.name,
            "architecture": gpu.architecture.name,
            "multiprocessors": gpu.multiprocessors,
        }
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
        # Older tables have only the name.
        if other := [
            f"{found[name]}, not of {mine}" for name, mine in self.about.items() if found.get(name, mine) != mine
        ]:
            raise ValueError(f"{path} is the table of {other[0]}: choose another file with --out")
        self.rows: dict[measured.Key, Row] = {tuple(row["key"]): row for row in found["rows"]}

    def has(self, key: measured.Key, operator: Operator) -> bool:
        """Whether there is a row for `key` that was measured with the operator's kernels as they are now."""
        if key not in self.rows:
            return False
        name = kernel_identity.canonical({operator: self.rows[key]["kernel"]}, self.known)[operator]
        return name == self.kernels[operator]

    def add(self, row: Row, version: str = torch.__version__) -> None:
        """Add the fields KEPT of a row that was measured with the kernels as they are now, and write the file.

        The row gets the name of its operator's kernels and `version`, that of torch. It replaces a row with the same
        key. The rows of the file are sorted by key.
        """
        key = tuple(row["key"])
        kept = {name: row[name] for name in KEPT if name in row}
        self.rows[key] = kept | {"kernel": self.kernels[key[0]], "torch": version}
        about = json.dumps(self.about).removesuffix("}")
        rows = results.lines(self.rows[key] for key in sorted(self.rows, key=str))
        results.write(self.path, f'{about}, "rows": {rows}}}\n')
