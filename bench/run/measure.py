"""One problem, measured: every contender checked against float64, then timed side by side. The rows of the record."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.layers import Layer
from bench.results import Row, in_short, kernels_of, lost
from bench.run import check
from bench.run.contenders import OURS, Pass, Problem, at_its_best, computation, operators_of, refusal
from bench.run.memory import Computation
from bench.run.roof import Ceilings, Roof
from bench.run.timing import BUDGET, Times, side_by_side, spread


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
               from the median on the device, or of the wall where there is none; `extra_bytes` is the peak of the
               memory beside operands and results, `peak` that of all memory as a multiple of operands and results
    `wrong`    it is not, `reason` says by how much, and there are none
    `skipped`  it can not run this, and says why
    `failed`   it raised
    """
    device = problem.x.device
    rows = {
        name: about(problem.layer, of, name, problem.dtype)
        | {"commit": environment["commit"], "image": [*problem.x.shape], "weight": [*problem.weight.shape]}
        for name in contenders
    }
    computations: dict[str, Computation] = {}
    with at_its_best(problem.dtype):
        expected = check.samples(of, problem)

        def check_result(name: str, results: Sequence[torch.Tensor]) -> None:
            rms, most = check.assert_right(of, problem, results, expected, looser(name))
            rows[name] |= {"status": "ok", "error_rms": rms, "error_max": most}

        for name, row in rows.items():
            if reason := refusal(name, of, problem):
                row |= {"status": "skipped", "reason": reason}
                continue
            try:
                computations[name] = computation(name, of, problem)
                check_result(name, computations[name]())
                if name.startswith("triton"):
                    tile = tiles_of(problem.layer, of, problem.dtype, device, name == "triton")
                    row |= {
                        "kernels": kernels_of(operators_of(of, problem.layer), environment["kernels"]),
                        "tile": tile,
                    }
            except Exception as error:
                computations.pop(name, None)
                row |= failure(error, device)
        times = timed_or_failed(computations, rows, device, budget)
        roof = Roof.of(of, problem, ceilings)
        for name, each in times.items():
            try:
                if each.results is not None:
                    check_result(name, each.results)  # what the last timed replay has left
                rows[name] |= timed(each, roof) | {"peak": peak(each, problem, of)}
            except check.WrongResult as error:
                rows[name] |= failure(error, device)
    return list(rows.values())


# cuDNN may choose algorithms that are less accurate than a sum of products, such as Winograd's. That is for its users
# to judge by the errors in the rows: it is not kept out of the comparison for it. Nor is a loop over positions, which
# rounds a pixel once for each tap that falls on it.
LOOSER = 10
LOOSER_IN_A_LOOP = 30


def looser(contender: str) -> float:
    """By how much more than ours a contender may be off."""
    return 1 if contender in OURS else LOOSER_IN_A_LOOP if contender == "loop" else LOOSER


def timed_or_failed(
    computations: dict[str, Computation], rows: dict[str, Row], device: torch.device, budget: float
) -> dict[str, Times]:
    """The times of all calls, side by side. If one of them fails at it, of each alone, and a row that says so."""
    try:
        return side_by_side(computations, device, budget)
    except Exception as error:
        failure(error, device)
    times: dict[str, Times] = {}
    for name, each in computations.items():
        try:
            times |= side_by_side({name: each}, device, budget)
        except Exception as error:
            rows[name] |= failure(error, device)
    return times


def failure(error: Exception, device: torch.device) -> Row:
    """What a row says of an exception. Raises it again if the GPU is lost by it."""
    if lost(device):
        raise error
    return {"status": "wrong" if isinstance(error, check.WrongResult) else "failed", "reason": in_short(error)}


def about(layer: Layer, of: Pass, contender: str, dtype: str) -> Row:
    """What a row speaks of."""
    return {"layer": layer.name, "family": layer.family, "pass": of, "contender": contender, "dtype": dtype}


def untimed(
    layer: Layer, of: Pass, dtype: str, contenders: Sequence[str], *, commit: str | None, status: str, reason: str
) -> list[Row]:
    """The rows of a problem that nothing was timed of."""
    outcome = {"commit": commit, "status": status, "reason": reason}
    return [about(layer, of, name, dtype) | outcome for name in contenders]


def tiles_of(layer: Layer, of: Pass, dtype: str, device: torch.device, channels_last: bool = True) -> dict[str, str]:
    """The tile that each operator of a pass chooses on `device`."""
    from bench.lowering.offline import plan_for
    from tritonconv import runtime

    gpu = runtime.gpu_of(device)
    plans = {
        operator: plan_for(operator, dtype, layer.geometry, gpu, channels_last=channels_last)
        for operator in operators_of(of, layer)
    }
    return {operator: str(plan.tile) for operator, plan in plans.items()}


def peak(times: Times, problem: Problem, of: Pass) -> float | None:
    """The memory that a contender holds at its peak, as a multiple of operands and results: 1 is the least."""
    if times.extra_bytes is None:
        return None
    least = problem.geometry.minimal_bytes(problem.x.element_size()) * (2 if of == "step" else 1)
    return float(f"{1 + times.extra_bytes / least:.4g}")


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
