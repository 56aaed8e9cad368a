"""The slice `training` of `bench device`: training steps of whole networks, which `bench.train` times."""

from bench import results
from bench.device.work import Planned, Scene, Work
from bench.train.models import MODELS
from bench.train.run import done, units

FILE = "training.json"


def every(scene: Scene) -> list[Planned]:
    """Plan the networks of `bench.train`. Those whose package is not installed have nothing to do."""
    rows, machine = known(scene), scene.machine
    return [
        Planned(each.name, int(machine.has(MODELS[each.model].package) and not done(each, rows)), each.seconds)
        for each in units(machine.device)
    ]


def known(scene: Scene) -> list[results.Row]:
    """Return the rows that are current: of GPUs alike, with the package as it is now."""
    package = scene.evidence.now["package"]
    return [
        row
        for run in scene.evidence.records
        if run.get("part") == "training" and scene.evidence.alike(run) and run["environment"].get("package") == package
        for row in run["rows"]
    ]


def run(work: Work) -> int:
    """Write `training.json`. Return the exit status of `bench.train`."""
    return work.machine.train(work.file(FILE), work.clock, work.keep, known(work.scene))
