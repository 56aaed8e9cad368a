"""The slice `tuning` of `bench device`: the times of promising tiles, of problems that no table has a row for.

It changes no table. `python -m bench tune --take DIR/tiles.json` puts the winners into the table of the GPU.
"""

from functools import cache
from typing import Any

from bench import results
from bench.device import estimates
from bench.device.schedule import Pace, Record
from bench.device.work import Planned, Scene, Work
from bench.layers import SMOKE, Layer, select
from bench.tune.command import tasks
from bench.tune.search import key_of
from bench.tune.table import Table
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
    table = Table(measured.FOLDER / measured.file_of(gpu.name), gpu.name, scene.evidence.now["kernels"])
    rows = [row for run in scene.evidence.of_architecture("tiles") if scene.evidence.alike(run) for row in run["rows"]]
    timed = {
        tuple(row["key"])
        for row in rows
        if row.get("kernel") == scene.evidence.now["kernels"][row["pass"]]
        if "key" in row
    }
    found: dict[Any, Planned] = {}
    for layer in sorted(select("all"), key=lambda layer: layer.name not in SMOKE):
        for operator in OPERATORS:
            key = key_here(layer, operator, gpu)
            missing = int(not table.has(key, operator) and key not in timed)
            name = f"{layer.name} {operator} {DTYPE}"
            found.setdefault(key, Planned(name, missing, estimates.TUNING, TILES, (layer, operator)))
    return list(found.values())


@cache
def key_here(layer: Layer, operator: Any, gpu: Gpu) -> Any:
    return key_of(layer, operator, DTYPE, gpu)


def run(work: Work) -> int:
    """Write `tiles.json`: the times of all tiles that were tried. Return 1 if a tile was wrong or the GPU was lost."""
    about: dict[str, Any] = {"part": "tiles", "environment": work.scene.evidence.now, "ceilings": {}}
    if work.machine.rehearsal:
        about["rehearsal"] = work.machine.rehearsal
    record = Record.continued(work.file(FILE), **about)
    todo = [each for each in work.todo if each.missing]
    record.plan(each.name for each in todo)
    gpu, stopped, pace, bad = work.machine.gpu, None, Pace(work.clock), 0
    for each in todo:
        expected = each.seconds + estimates.to_compile(each.kernels)
        if not pace.fits(expected):
            break
        layer, operator = each.unit
        (task,) = [one for one in tasks([layer], [DTYPE], gpu, None, False) if one.operator == operator]
        try:
            with pace.unit(expected):
                work.machine.compile(task.plan(tile, gpu) for tile in task.candidates)
                row, refused = work.machine.tune(task)
        except Exception as error:  # the GPU is lost
            stopped = f"{each.name}: {results.in_short(error)}"
            break
        bad += len(refused)
        for line in refused:
            print(line)
        row = (row or {"status": "failed"}) | {"layer": layer.name, "pass": operator, "dtype": DTYPE}
        record.add(each.name, [row | {"kernel": work.scene.evidence.now["kernels"][operator], "refused": refused}])
        work.keep()
    record.close(stopped)
    done = len(todo) - len(record.content["remaining"])
    print(
        f"tuning: {done} of {len(todo)} problems tuned, {bad} tiles refused: {record.content['stopped'] or 'complete'}"
    )
    return int(bool(bad or stopped))
