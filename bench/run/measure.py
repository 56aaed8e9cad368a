"""Measures one pass of one problem: checks each contender against float64, then times the right ones side by side."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from bench.layers import Layer
from bench.results import Row, in_short, kernels_of, lost
from bench.run import check
from bench.run.contenders import OURS, Pass, Problem, at_its_best, computation, operators_of, refusal
from bench.run.memory import Computation
from bench.run.roof import Ceilings, Roof
from bench.run.timing import BUDGET, Times, median_of, side_by_side, spread
from tritonconv.geometry import Operator
from tritonconv.gpu import INTERPRETER
from tritonconv.launch.plan import Plan
from tritonconv.tiling.pick import measured_for, measured_on


def measure(
    problem: Problem,
    of: Pass,
    contenders: Sequence[str],
    ceilings: Ceilings,
    environment: dict[str, Any],
    budget: float = BUDGET,
) -> list[Row]:
    """Return one row of the record for each contender.

    The `status` of a row is one of:

        `ok`       The result is right. The row has times.
        `wrong`    The result is wrong. `reason` says by how much, and there are no times.
        `skipped`  The contender cannot compute this pass. `reason` says why.
        `failed`   The contender raised an exception. `reason` has its first line.

    A row with times has these fields, among others:

        `device_us`    Microseconds on the GPU: replays of a CUDA graph with a cold L2 cache. None on a CPU. If the
                       call could not be captured, they are of eager calls, and `how` is "events".
        `warm_us`      Microseconds on the GPU, each replayed directly after one of `device_us`, so with a warm L2
                       cache. None without a CUDA graph.
        `wall_us`      Microseconds of eager calls, from the call until the result is there.
        `host_us`      Microseconds of eager calls, from the call until it returns. None on a CPU.
        `tflops`       TFLOP/s, from the median of `device_us`, or of `wall_us` if that is None.
        `gbps`         GB/s, from the same median, with each operand and result moved once.
        `roof`         The share of the roofline that it reaches: the time at the ceilings over the same median. None
                       for locally connected layers on a CPU, where the rate of the L2 cache is not measured.
        `extra_bytes`  The peak of the memory that the call takes beside operands and results.
        `peak`         The peak of all memory, as a multiple of operands and results.
        `cold`         "read": the L2 cache was cooled by reading. None on a CPU. Rows without this field are older, and
                       were cooled by writing.
        `clock_mhz`    The SM clock, and `watts` the power: medians of readings between runs. None if the driver does
                       not tell them. A reading may cover up to a second, and so all contenders that took turns.
        `tuned`        Only for our kernels: whether the tile of each operator is from a table of measured tiles.
        `tuned_on`     Only if such a table is that of another GPU, like this one: the names of these GPUs.

    Each of the four times is a dict of `median`, `p20`, `p80` and the number of `runs`.

    If the GPU is lost, the exception that shows it is raised again.
    """
    device = problem.x.device
    rows = {
        name: about(problem.layer, of, name, problem.dtype) | {"commit": environment["commit"]} | shapes(problem.layer)
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
                    plans = plans_of(problem.layer, of, problem.dtype, device, name == "triton")
                    row |= {
                        "kernels": kernels_of(plans, environment["kernels"]),
                        "tile": {operator: str(plan.tile) for operator, plan in plans.items()},
                        "tuned": {operator: is_measured(plan) for operator, plan in plans.items()},
                    }
                    if names := measured_elsewhere(plans.values()):
                        row["tuned_on"] = names
            except Exception as error:
                computations.pop(name, None)
                row |= failure(error, device)
        times = timed_or_failed(computations, rows, device, budget)
        roof = Roof.of(of, problem, ceilings)
        for name, each in times.items():
            try:
                if each.results is not None:
                    check_result(name, each.results)  # those of the last timed run
                rows[name] |= timed(each, roof) | {"peak": peak(each, problem, of)}
            except check.WrongResult as error:
                rows[name] |= failure(error, device)
    return list(rows.values())


# cuDNN may choose algorithms that are less accurate than a sum of products, for example Winograd's. They still compete:
# users can judge them by the errors in the rows. A loop over positions is also less accurate, because its dgrad rounds
# a pixel once for each tap that falls on it.
LOOSER = 10
LOOSER_IN_A_LOOP = 30


def looser(contender: str) -> float:
    """Return the factor by which a contender's tolerance is larger than that of our implementations."""
    return 1 if contender in OURS else LOOSER_IN_A_LOOP if contender == "loop" else LOOSER


def timed_or_failed(
    computations: dict[str, Computation], rows: dict[str, Row], device: torch.device, budget: float
) -> dict[str, Times]:
    """Return the times of all calls by contender, measured side by side.

    If a call raises an exception, each call is timed alone. In this case the rows of contenders that fail get the
    status `failed`, and they have no times.
    """
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
    """Return the `status` and `reason` that a row gets for an exception. Raise it again if the GPU is lost."""
    if lost(device):
        raise error
    return {"status": "wrong" if isinstance(error, check.WrongResult) else "failed", "reason": in_short(error)}


def about(layer: Layer, of: Pass, contender: str, dtype: str) -> Row:
    """Return the fields that say what a row measures. `held_out` is there only for a held-out layer."""
    row: Row = {"layer": layer.name, "family": layer.family, "pass": of, "contender": contender, "dtype": dtype}
    return row | {"held_out": True} if layer.held_out else row


def shapes(layer: Layer) -> Row:
    """Return the fields that say at which shapes a layer is measured: those of its image and of its weight."""
    return {"image": [*layer.geometry.image_shape], "weight": [*layer.geometry.weight_shape]}


def untimed(
    layer: Layer, of: Pass, dtype: str, contenders: Sequence[str], *, commit: str | None, status: str, reason: str
) -> list[Row]:
    """Return rows without times, one for each contender, with this status and reason, and the layer's shapes."""
    outcome = {"commit": commit, **shapes(layer), "status": status, "reason": reason}
    return [about(layer, of, name, dtype) | outcome for name in contenders]


def plans_of(
    layer: Layer, of: Pass, dtype: str, device: torch.device, channels_last: bool = True
) -> dict[Operator, Plan]:
    """Return, by operator of the pass, the plan that it runs with on `device`, without a bias."""
    from bench.lowering.offline import plan_for
    from tritonconv import runtime

    gpu = runtime.gpu_of(device)
    return {
        operator: plan_for(operator, dtype, layer.geometry, gpu, channels_last=channels_last)
        for operator in operators_of(of, layer)
    }


def tiles_of(layer: Layer, of: Pass, dtype: str, device: torch.device) -> dict[str, str]:
    """Return, by operator of the pass, the name of the tile that it runs with on `device`, in channels_last."""
    return {operator: str(plan.tile) for operator, plan in plans_of(layer, of, dtype, device).items()}


def is_measured(plan: Plan) -> bool:
    """Whether the tile of a plan is from a table of measured tiles, and not the choice of the cost model."""
    return plan.request.gpu != INTERPRETER and measured_for(*plan.request) == plan.tile


def measured_elsewhere(plans: Iterable[Plan]) -> list[str]:
    """Return the names of other GPUs on which the tiles of these plans were measured."""
    requests = [plan.request for plan in plans if is_measured(plan)]
    names = {name for each in requests if (name := measured_on(*each)) is not None and name != each.gpu.name}
    return sorted(names)


def peak(times: Times, problem: Problem, of: Pass) -> float | None:
    """Return the peak of all memory as a multiple of operands and results: 1 is the least. None if it is unknown.

    The operands and results of a step are each factor and its gradient.
    """
    if times.extra_bytes is None:
        return None
    least = problem.geometry.minimal_bytes(problem.x.element_size()) * (2 if of == "step" else 1)
    return float(f"{1 + times.extra_bytes / least:.4g}")


def timed(times: Times, roof: Roof) -> Row:
    """Return the fields of a row that follow from the times of one contender and from the roof of the pass."""
    device = spread(times.device) if times.device else None
    wall = spread(times.wall)
    microseconds = (device or wall)["median"]
    return {
        "device_us": device,
        "warm_us": spread(times.warm) if times.warm else None,
        "wall_us": wall,
        "host_us": spread(times.host) if times.host else None,
        "how": times.how,
        "cold": "read" if device else None,
        "clock_mhz": median_of([each.clock_mhz for each in times.sensed]),
        "watts": median_of([each.watts for each in times.sensed]),
        "tflops": float(f"{roof.flops / microseconds / 1e6:.4g}"),
        "gbps": float(f"{roof.bytes / microseconds / 1e3:.4g}"),
        "roof": None if roof.microseconds is None else float(f"{roof.microseconds / microseconds:.4g}"),
        "bound": roof.bound,
        "flops": roof.flops,
        "bytes": roof.bytes,
        "extra_bytes": times.extra_bytes,
    }
