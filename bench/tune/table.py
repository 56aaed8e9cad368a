"""The table of measured tiles of one GPU, in `tritonconv/tiling/measured_tiles/`. `tritonconv.tiling.pick` reads it."""

import json
from pathlib import Path
from typing import Any

import torch

from bench import kernel_identity, results
from bench.results import Row
from tritonconv.geometry import Operator
from tritonconv.tiling import measured


class Table:
    """The rows of the GPU named `gpu`. They are read from the file `path` if it exists.

    `add` writes the file after each row. So a command that is stopped loses no row, and a later one goes on from them.
    `kernels` has the name of each operator's kernels as they are now.

    Raise ValueError if the file is the table of another GPU.
    """

    def __init__(self, path: Path, gpu: str, kernels: dict[str, str]) -> None:
        self.path = path
        self.kernels = kernels
        self.known = kernel_identity.read()
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"gpu": gpu, "rows": []}
        if found["gpu"] != gpu:
            raise ValueError(f"{path} is the table of {found['gpu']}, not of {gpu}: choose another file with --out")
        self.gpu = gpu
        self.rows: dict[measured.Key, Row] = {tuple(row["key"]): row for row in found["rows"]}

    def has(self, key: measured.Key, operator: Operator) -> bool:
        """Whether there is a row for `key` that was measured with the operator's kernels as they are now."""
        if key not in self.rows:
            return False
        name = kernel_identity.canonical({operator: self.rows[key]["kernel"]}, self.known)[operator]
        return name == self.kernels[operator]

    def add(self, row: Row) -> None:
        """Add a row without its field "times", and write the file, whose rows are sorted by key.

        The row gets the name of its operator's kernels and the version of torch. It replaces a row with the same key.
        """
        key = tuple(row["key"])
        kept = {name: value for name, value in row.items() if name != "times"}
        self.rows[key] = kept | {"kernel": self.kernels[key[0]], "torch": torch.__version__}
        rows = results.lines(self.rows[key] for key in sorted(self.rows, key=str))
        results.write(self.path, f'{{"gpu": {json.dumps(self.gpu)}, "rows": {rows}}}\n')
