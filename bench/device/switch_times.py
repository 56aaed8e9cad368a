"""Times operators with a switch of `tritonconv/gpu.py` off and on, side by side."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bench.device.ways import Way, forced, forget_failures, same_bits, taking_turns
from bench.layers import Layer, select
from bench.results import Row, in_short
from bench.run import check
from bench.run.contenders import Problem, at_its_best
from bench.run.timing import Times, side_by_side, spread
from tritonconv import runtime
from tritonconv.geometry import OPERATORS, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import failures
from tritonconv.launch.plan import Plan

# The layers that are timed, and their operators. All are in bfloat16.
TIMED: dict[str, tuple[str, ...]] = {
    "host_descriptors": (
        *("rn50_c3_3x3", "rn50_c4_3x3", "rn50_c5_3x3", "rn50_c4_1x1_reduce", "rn50_c3_3x3_s2", "unet_bottleneck"),
        *("sd15_unet_1280_at_16", "dcgan_up_512_to_256_4x4_s2"),
    ),
    "dependent_launch": ("rn50_c2_3x3", "rn50_c3_3x3", "rn50_c4_3x3"),
}
TIMED_OPERATORS: dict[str, tuple[Operator, ...]] = {"host_descriptors": OPERATORS, "dependent_launch": ("wgrad",)}
DTYPE = "bfloat16"
# Seconds that all runs of one call may take (`bench.run.timing`).
BUDGET = 0.1


def layers(switch: str, device: torch.device) -> list[tuple[Layer, Operator]]:
    """Return the layers and operators that are timed with the switch off and on. Without a GPU it is one small one."""
    every = [(layer, operator) for operator in TIMED_OPERATORS[switch] for layer in select(TIMED[switch])]
    if device.type == "cuda":
        return every
    layer, operator = every[0]
    small = replace(layer.case, batch=1, channels=(16, 16), size=(4, 4))
    return [(replace(layer, case=small), operator)]


def both_plans(switch: str, gpu: Gpu, layer: Layer, operator: Operator) -> tuple[Plan, Plan]:
    """Return the plans of an operator with the switch off and on, for tensors without data."""
    from bench.lowering.offline import plan_for

    off, on = (gpu.switched(**{switch: position}) for position in (False, True))
    first = plan_for(operator, DTYPE, layer.geometry, off)
    # `pick` has a tile for the interpreter as it is, and would choose one for a GPU with the switch on.
    tile = first.tile if gpu.architecture.vendor is None else None
    return first, plan_for(operator, DTYPE, layer.geometry, on, tile)


def differ(off: Plan, on: Plan) -> bool:
    """Whether two plans start different kernels."""
    return [each.variant for each in off.launches] != [each.variant for each in on.launches]


def timed(switch: str, gpu: Gpu, layer: Layer, operator: Operator, device: torch.device) -> list[Row]:
    """Return the rows of an operator with the switch off and on, or one row if the switch makes no difference here.

    Both results are compared with samples in float64, and, if both have the same tile, with each other bit by bit.
    """
    plans = both_plans(switch, gpu, layer, operator)
    if not differ(*plans):
        return [{"status": "skipped", "tile": str(plans[0].tile), "reason": f"{switch} makes no difference here"}]
    rows: dict[bool, Row] = {
        on: {"on": on, "tile": str(plan.tile)} for on, plan in zip((False, True), plans, strict=True)
    }
    tiles = {operator: plans[0].tile} if runtime.interpreted() else {}
    problem = Problem.draw(layer, DTYPE, device)
    with at_its_best(DTYPE), taking_turns(), forced(tiles):
        call = problem.call(operator, implementation="triton")
        forget_failures()
        ways = {on: Way(device, **{switch: on}) for on in rows}
        computations = {on: way.computation(call) for on, way in ways.items()}
        found = {on: computation() for on, computation in computations.items()}
        if failures.any_happened():
            raise RuntimeError(f"this failed and was avoided: {'; '.join(failures._reasons.values())}")
        expected = check.samples(operator, problem)
        for on, row in rows.items():
            row |= right(operator, problem, found[on], expected)
        if rows[False]["tile"] == rows[True]["tile"] and not same_bits(found[False], found[True]):
            rows[True] |= {"status": "wrong", "reason": "other bits than with the switch off"}
        del found
        if all(row["status"] == "ok" for row in rows.values()):
            times = side_by_side(computations, device, BUDGET if device.type == "cuda" else BUDGET / 100)
            for on, each in times.items():
                # Those of the last timed run, on a GPU of the last replay.
                rows[on] |= right(operator, problem, each.results, expected) | medians(each)
    return list(rows.values())


def right(operator: Operator, problem: Problem, found: Sequence[torch.Tensor], expected: list[check.Sample]) -> Row:
    """Return the status of results, with the errors of those that are right."""
    try:
        rms, most = check.assert_right(operator, problem, found, expected)
    except check.WrongResult as error:
        return {"status": "wrong", "reason": in_short(error)}
    return {"status": "ok", "error_rms": rms, "error_max": most}


def medians(times: Times) -> Row:
    """Return the times of a row, each with its median and spread. On a CPU, only `wall` has any."""
    return {
        "how": times.how,
        "device": spread(times.device) if times.device else None,
        "host": spread(times.host) if times.host else None,
        "wall": spread(times.wall),
    }
