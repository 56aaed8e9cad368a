"""The slice `tuning` of `bench device`: the times of promising tiles, of problems that no table has a row for.

It changes no table. `python -m bench tune --take DIR/tiles.json` puts the winners into the table of the GPU.
"""

from functools import cache
from typing import Any

from bench import kernel_identity, results
from bench.device import estimates
from bench.device.current import Evidence
from bench.device.schedule import Pace
from bench.device.work import Planned, Scene, Work
from bench.layers import SMOKE, Layer, select
from bench.results import kernels_of
from bench.tune.command import tasks
from bench.tune.search import key_of
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu
from tritonconv.tiling import measured

FILE = "tiles.json"
DTYPE = "bfloat16"
# How many tiles a problem has at most, each with a kernel of its own.
TILES = 14


def every(scene: Scene) -> list[Planned]:
    """Plan each operator of the layers, those of the smoke set first. A problem of several layers is planned once."""
    if scene.machine.gpu.architecture.vendor is None:
        return []
    gpu = scene.machine.gpu
    done = tuned(gpu, scene.evidence.now["kernels"]) | timed(scene.evidence)
    seconds = estimates.TUNING + estimates.to_compile(TILES)
    found: dict[Any, Planned] = {}
    for layer in sorted(select("all"), key=lambda layer: layer.name not in SMOKE):
        for operator in OPERATORS:
            key = key_here(layer, operator, gpu)
            missing = int(key not in done)
            name = f"{layer.name} {operator} {DTYPE}"
            found.setdefault(key, Planned(name, missing, seconds, unit=(layer, operator)))
    return list(found.values())


def tuned(gpu: Gpu, kernels: dict[str, str]) -> set[Any]:
    """Return the keys for which a table that serves this GPU has a row of the kernels as they are now."""
    found, known = set(), kernel_identity.read()
    for table in measured.tables():
        if measured.rank_of(table, gpu) is None:
            continue
        for row in table["rows"]:
            operator = row["key"][0]
            if kernel_identity.canonical({operator: row["kernel"]}, known)[operator] == kernels[operator]:
                found.add(tuple(row["key"]))
    return found


def timed(evidence: Evidence) -> set[Any]:
    """Return the keys for which a record of a GPU alike has times of tiles, with the kernels as they are now."""
    rows = [row for run in evidence.of_architecture("tiles") if evidence.alike(run) for row in run["rows"]]
    return {
        tuple(row["key"])
        for row in rows
        if "key" in row and row.get("kernels") == kernels_of([row["pass"]], evidence.now["kernels"])
    }


@cache
def key_here(layer: Layer, operator: Any, gpu: Gpu) -> Any:
    return key_of(layer, operator, DTYPE, gpu)


def run(work: Work) -> int:
    """Write `tiles.json`: the times of all tiles that were tried. Return 1 if a tile was wrong or the GPU was lost."""
    record, todo = work.begun(FILE, part="tiles")
    gpu, stopped, pace, bad = work.machine.gpu, None, Pace(work.clock), 0
    for each in todo:
        if not pace.fits(each.seconds):
            break
        layer, operator = each.unit
        (task,) = [one for one in tasks([layer], [DTYPE], gpu, None, False) if one.operator == operator]
        try:
            with pace.unit(each.seconds):
                work.machine.compile(task.plan(tile, gpu) for tile in task.candidates)
                row, refused = work.machine.tune(task)
        except Exception as error:  # the GPU is lost
            stopped = f"{each.name}: {results.in_short(error)}"
            break
        bad += len(refused)
        for line in refused:
            print(line)
        row = {"layer": layer.name, "pass": operator, "dtype": DTYPE} | (row or {"status": "failed"})
        row |= {"kernels": kernels_of([operator], work.scene.evidence.now["kernels"]), "refused": refused}
        record.add(each.name, [row])
        work.keep()
    record.close(stopped)
    done = len(todo) - len(record.content["remaining"])
    print(
        f"tuning: {done} of {len(todo)} problems tuned, {bad} tiles refused: {record.content['stopped'] or 'complete'}"
    )
    return int(bool(bad or stopped))
