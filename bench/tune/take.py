"""Put the winners in a record of tiles into the table of the GPU that it was measured on. No GPU is needed."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench import kernel_identity, results
from bench.layers import tunable
from bench.results import Results, Row
from bench.tune.search import key_of
from bench.tune.table import Table
from tritonconv.gpu import Gpu
from tritonconv.tiling import measured

# The fields of a record that is no evidence.
NO_EVIDENCE = ("rehearsal", "sample")


def take(path: Path, out: Path | None = None) -> int:
    """Put the winners in the record `path` into the table `out`, by default that of the record's GPU.

    Print how many there are, and return the exit status. Raise ValueError if a row can not be taken (`winners`). Then
    no row is.
    """
    record = results.read(path)
    gpu = gpu_of(record, path)
    table = Table(out or measured.FOLDER / measured.file_of(gpu.name), gpu, kernel_identity.names())
    rows, counts = [*winners(record, path, gpu, table.kernels)], Counter[str]()
    for row in rows:
        before = table.rows.get(tuple(row["key"]))
        counts[
            "new" if before is None else "as before" if before["tile"] == row["tile"] else "in the place of others"
        ] += 1
        table.add(row, record["environment"]["torch"])
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(
        f"{len(rows)} tiles taken for the {gpu.name}: {said or 'the record has no times'}. The table is {table.path}."
    )
    return 0


def gpu_of(record: Results, path: Path) -> Gpu:
    """Return the GPU that a record of tiles was measured on. Raise ValueError if it is no such record."""
    environment = record["environment"]
    if record.get("part") != "tiles":
        raise ValueError(f"{path} holds no times of tiles")
    if any(name in record for name in NO_EVIDENCE) or not environment["gpu"]:
        raise ValueError(f"{path} is no measurement on a GPU, so no tile of it is taken")
    return Gpu.of(environment["architecture"], environment["multiprocessors"], environment["gpu"])


def winners(record: Results, path: Path, gpu: Gpu, kernels: dict[str, str]) -> Iterator[Row]:
    """Yield the rows of a record that have times. `kernels` has the name of each operator's kernels as they are now.

    Raise ValueError if a row does not say which tile won, if it was measured with other kernels, or if its key is no
    longer that of its layer.
    """
    for row in record["rows"]:
        if "times" not in row:
            continue
        if "key" not in row:
            raise ValueError(f"{path} is older than --take: its rows do not say which kernels ran with which tile")
        name, operator = f"{row['layer']} {row['pass']} {row['dtype']}", row["pass"]
        if row["kernels"] != {operator: kernels[operator]}:
            raise ValueError(f"{path}: {name} was measured with other kernels than those of this checkout")
        (layer,) = tunable(row["layer"])
        if tuple(row["key"]) != key_of(layer, operator, row["dtype"], gpu):
            raise ValueError(f"{path}: {name} is another problem now, or has other operands")
        yield row
