"""What `bench lowering --layers` prints for one's own layers: the tiles, their bottlenecks, and the machine code."""

from collections.abc import Sequence

from bench import table
from bench.lowering import choices
from bench.lowering.offline import Job, exact_jobs, gpu_of_data_sheet
from bench.lowering.table import LEGEND, Row, full
from bench.own_layer import OwnLayer

# The columns that the rows of a layer do not need, because its heading says the same.
WITHOUT = ("dtype", "arch", "layers")
# The legends of both tables. The last line is that of `choices`, which also speaks for the other table.
LINES = [line for line in LEGEND.splitlines() if not line.startswith(("layers", "Nothing"))]
BOTH = "\n".join([*choices.LEGEND.splitlines()[:-1], *LINES, choices.LEGEND.splitlines()[-1]])


def jobs(own: Sequence[OwnLayer], archs: Sequence[str], kernels: Sequence[str], host_descriptors: bool) -> list[Job]:
    """Return the jobs that compile what the layers launch, each once, of `kernels` and for each of `archs`."""
    every = (
        job
        for layer, dtype in own
        for arch in archs
        for job in exact_jobs(layer, dtype, arch, host_descriptors)
        if job.kernel in kernels and job.host_descriptors == host_descriptors
    )
    return list(dict.fromkeys(every))


def shown(own: Sequence[OwnLayer], archs: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the legend, and for each layer and architecture its tiles and bottlenecks, and the rows of its kernels."""
    parts = [BOTH]
    for layer, dtype in own:
        for arch in archs:
            chosen = [list(row[1:]) for row in choices.choices([layer], dtype, gpu_of_data_sheet(arch))]
            mine = [row for row in rows if (row["arch"], row["dtype"]) == (arch, dtype) and layer.name in row["layers"]]
            code = full(mine, without=WITHOUT) if mine else "None of its kernels was compiled."
            parts.append(f"{layer.name}, {dtype} on {arch}\n{table.columns(choices.HEADER[1:], chosen)}\n\n{code}")
    return "\n\n".join(parts)
