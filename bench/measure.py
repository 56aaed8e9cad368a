"""One problem, measured: every contender checked against float64, then timed side by side. The rows of the record."""

from collections.abc import Sequence
from typing import Any

import torch

from bench import check
from bench.contenders import Pass, Problem, at_its_best, call, parts, why_not
from bench.layers import Layer
from bench.results import KERNELS_OF, Row, is_sticky
from bench.roof import Ceilings, Roof
from bench.timing import BUDGET, Times, side_by_side, spread


def measure(
    problem: Problem,
    of: Pass,
    contenders: Sequence[str],
    ceilings: Ceilings,
    environment: dict[str, Any],
    budget: float = BUDGET,
) -> list[Row]:
    """One row for each contender. Its `status` is

    `ok`       the result is right, and there are times: `device_us` (replays of a CUDA graph, cold L2 cache),
               `wall_us` (eager, from the call to the result) and `host_us` (eager, until the call returns), each with
               median, p20, p80 and runs; `tflops`, `gbps` and `roof` (the fraction of what the ceilings allow) follow
               from the median on the device, or of the wall where there is none
    `wrong`    it is not, `reason` says by how much, and there are none
    `skipped`  it can not run this, and says why
    `failed`   it raised
    """
    device = problem.x.device
    with at_its_best(problem.dtype):
        expected = check.samples(of, problem)
        rows, calls = [], {}
        for contender in contenders:
            row = about(problem.layer, of, contender, problem.dtype) | {"commit": environment["commit"]}
            rows.append(row)
            if reason := why_not(contender, of, problem):
                row |= {"status": "skipped", "reason": reason}
                continue
            try:
                calls[contender] = call(contender, of, problem)
                rms, most = check.verify(of, problem, calls[contender](), expected)
                row |= {"status": "ok", "error_rms": rms, "error_max": most}
                if contender.startswith("triton"):
                    tile = tiles_of(problem.layer, of, problem.dtype, device, contender == "triton")
                    kernels = {name: environment["kernels"][name] for name in KERNELS_OF[of]}
                    row |= {"kernels": kernels, "tile": tile}
            except Exception as error:
                calls.pop(contender, None)
                if is_sticky(error):
                    raise
                wrong = isinstance(error, check.WrongResult)
                row |= {"status": "wrong" if wrong else "failed", "reason": f"{error}".splitlines()[0][:300]}
        times = side_by_side(calls, device, budget)
    roof = Roof.of(of, problem, ceilings)
    for row in rows:
        if row["status"] == "ok":
            row |= timed(times[row["contender"]], roof)
    return rows


def about(layer: Layer, of: Pass, contender: str, dtype: str) -> Row:
    """What a row speaks of."""
    return {"layer": layer.name, "family": layer.family, "pass": of, "contender": contender, "dtype": dtype}


def skipped(layer: Layer, of: Pass, dtype: str, contenders: Sequence[str], reason: str) -> list[Row]:
    """The rows of a layer that nothing runs."""
    return [about(layer, of, name, dtype) | {"status": "skipped", "reason": reason} for name in contenders]


def tiles_of(layer: Layer, of: Pass, dtype: str, device: torch.device, channels_last: bool = True) -> dict[str, str]:
    """The tile that each operator of a pass chooses on `device`."""
    from bench.offline import launches, tile_of
    from tritonconv import processor

    here = processor.device_of(device)
    chosen: dict[str, str] = {}
    for operator in parts(of, layer):
        first, *_ = launches(operator, dtype, layer.geometry, here, bias=False, channels_last=channels_last)
        chosen[operator] = str(tile_of(first))
    return chosen


def timed(times: Times, roof: Roof) -> Row:
    """What follows from the times of one contender."""
    device = spread(times.device) if times.device else None
    wall = spread(times.wall)
    microseconds = (device or wall)["median"]
    return {
        "device_us": device,
        "wall_us": wall,
        "host_us": spread(times.host) if times.host else None,
        "how": times.how,
        "tflops": float(f"{roof.flops / microseconds / 1e6:.4g}"),
        "gbps": float(f"{roof.bytes / microseconds / 1e3:.4g}"),
        "roof": float(f"{roof.microseconds / microseconds:.4g}"),
        "bound": roof.bound,
        "flops": roof.flops,
        "bytes": roof.bytes,
        "extra_bytes": times.extra_bytes,
    }
