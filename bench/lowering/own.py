"""`bench lowering --layers` with layers of one's own: the tiles that `pick` chooses, and the rows of their kernels."""

from collections.abc import Iterator, Sequence
from itertools import product

from bench import table
from bench.layers import Layer
from bench.lowering.choices import HEADER, choices
from bench.lowering.choices import LEGEND as CHOICES
from bench.lowering.offline import Job, gpu_of_data_sheet, picked_jobs
from bench.lowering.table import LEGEND as ROWS
from bench.lowering.table import Row, full

OwnLayers = Sequence[tuple[Layer, str]]


def own_jobs(
    layers: OwnLayers, archs: Sequence[str], kernels: Sequence[str], host_descriptors: bool
) -> dict[Job, list[str]]:
    """Return the jobs that each layer launches in its dtype, each with the names of its layers."""
    found: dict[Job, list[str]] = {}
    for arch in archs:
        for layer, dtype in layers:
            for job in picked_jobs([layer], dtype, arch, host_descriptors):
                if job.kernel in kernels:
                    found.setdefault(job, []).append(layer.name)
    return found


def shown(layers: OwnLayers, archs: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the legends, and for each layer and architecture the tile of each operator and its kernels' rows."""
    return "\n\n".join([CHOICES, ROWS, *own_tables(layers, archs, rows)])


def own_tables(layers: OwnLayers, archs: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """Yield a heading and two tables for each layer and architecture."""
    for arch, (layer, dtype) in product(archs, layers):
        chosen = [each[1:] for each in choices([layer], dtype, gpu_of_data_sheet(arch))]
        mine = [row for row in rows if layer.name in row["layers"] and (row["arch"], row["dtype"]) == (arch, dtype)]
        yield f"{layer.name}: {dtype} on {arch}"
        yield table.columns(HEADER[1:], chosen)
        if mine:
            yield full(mine, leave_out=("dtype", "arch", "layers"))
