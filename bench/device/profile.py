"""The slice `profile` of `bench device`: the kernels that torch runs for each operator, with their times."""

from collections.abc import Callable
from typing import Any

import torch

from bench import results
from bench.device import contests, estimates
from bench.device.schedule import in_time
from bench.device.work import Planned, Scene, Work
from bench.run.measure import about

FILE = "profile.json"


def every(scene: Scene) -> list[Planned]:
    """Plan all operators of the layers that torch has. What is in `profile.json` is current."""
    done = {
        (row["layer"], row["pass"], row["dtype"])
        for run in scene.evidence.records
        if run.get("part") == "profile" and scene.evidence.alike(run)
        for row in run["rows"]
        if row["status"] == "profiled" and run["environment"].get("cudnn") == scene.evidence.now.get("cudnn")
    }
    units = contests.torch_alone(scene)
    return [
        Planned(
            unit.name,
            int((unit.layer.name, unit.of, unit.dtype) not in done),
            estimates.DRAW + estimates.seconds_of_call(unit.layer, unit.of, "torch", unit.dtype),
            unit=unit,
        )
        for unit in units
    ]


def run(work: Work) -> int:
    """Write `profile.json`: the kernels that torch runs, with their microseconds. Return 1 if the GPU was lost."""
    session = work.machine.session(("torch",), [], {})
    record, todo = work.begun(FILE, part="profile", **session.record())
    stopped = None
    for each in in_time(todo, work.clock, reserve=2.0):
        unit = each.unit
        row = about(unit.layer, unit.of, "torch", unit.dtype)
        try:
            row |= {"status": "profiled", "kernels_of_torch": work.machine.profile(session, unit)}
        except Exception as error:
            row |= {"status": "failed", "reason": results.in_short(error)}
            stopped = row["reason"] if work.machine.lost() else None
        record.add(each.name, [row])
        if stopped:
            break
    record.close(stopped)
    left = len(record.content["remaining"])
    print(f"profile: {len(todo) - left} of {len(todo)} passes profiled: {record.content['stopped'] or 'complete'}")
    return int(stopped is not None)


def profile(run: Callable[[], Any], device: torch.device, runs: int = 5) -> list[dict[str, Any]]:
    """Return the kernels that a call of `run` starts, each with its microseconds per call, the slowest first.

    The times are means of `runs` calls, after two calls to warm up. On a CPU, torch's operators stand for kernels.
    """
    on = torch.profiler.ProfilerActivity
    for _ in range(2):
        run()
    with torch.profiler.profile(activities=[on.CUDA if device.type == "cuda" else on.CPU]) as profiler:
        for _ in range(runs):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    averages = [
        (e.key, e.device_time_total if device.type == "cuda" else e.self_cpu_time_total)
        for e in profiler.key_averages()
    ]
    found = [{"name": name, "us": round(total / runs, 2)} for name, total in averages if total > 0]
    return sorted(found, key=lambda each: -each["us"])
