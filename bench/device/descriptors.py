"""What it costs to describe tensors to the hardware: in each program, as the kernels do it, or on the host.

The same product three times: programs make the descriptors; the host makes them for each call; the host makes them once
and keeps them, as long as neither sizes nor pointers change (Triton still encodes them for each start).
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import results
from bench.contenders import Problem, at_its_best
from bench.device.schedule import Clock, Record, in_time
from bench.layers import select
from bench.results import Row
from bench.session import Session
from bench.timing import Times, side_by_side, spread
from tritonconv import launch, processor
from tritonconv.launch import Plan
from tritonconv.operands import constants, shape

# Dense layers of stride one, from the shortest to the longest programs.
LAYERS = "rn50_c3_3x3,rn50_c4_3x3,rn50_c5_3x3,sd15_unet_1280_at_16"


def run(args: argparse.Namespace, device: torch.device, clock: Clock, keep: Callable[[], None]) -> int:
    """`descriptors.json`: one row for each layer and way. 1 if a result was wrong or something failed."""
    dtype = "bfloat16" if device.type == "cuda" else "tf32"
    session = Session(device, ["triton"], [dtype])
    record = Record(args.out / "descriptors.json", part="descriptors", **session.record())
    layers = select(LAYERS)
    record.plan(layer.name for layer in layers)
    bad = []
    for layer in in_time(layers, clock):
        rows = compare(session.problem(layer, dtype), device, session.budget)
        record.add(layer.name, rows)
        bad += [row for row in rows if row["status"] != "ok"]
        keep()
    record.close()
    for row in record.content["rows"]:
        times = {name: row[name]["median"] for name in ("device", "host", "wall") if row.get(name)}
        print(f"descriptors: {row['layer']} by {row['descriptors']}: {row['status']} {times}")
    return int(bool(bad))


def compare(problem: Problem, device: torch.device, budget: float) -> list[Row]:
    """One row for each way to make descriptors, if blocks of pixels are copied here at all."""
    about = {"layer": problem.layer.name, "dtype": problem.dtype}
    with at_its_best(problem.dtype):
        plan = launch.fprop(problem.x, problem.weight, None, problem.geometry, True, processor.device_of(device))
        if not plan.tile.tiled:
            return [about | {"descriptors": "programs", "status": "skipped", "reason": "pixels are gathered here"}]
        calls = ways(problem, plan)
        try:
            wanted = calls["programs"]()[0].clone()
            right = {name: torch.equal(call()[0], wanted) for name, call in calls.items()}
            times = side_by_side({name: call for name, call in calls.items() if right[name]}, device, budget)
        except Exception as error:
            return [about | {"descriptors": "host", "status": "failed", "reason": results.in_short(error)}]
    return [
        about | {"descriptors": name, "tile": str(plan.tile)} | (timed(times[name]) if ok else {"status": "wrong"})
        for name, ok in right.items()
    ]


def timed(times: Times) -> Row:
    found = {name: getattr(times, name) for name in ("device", "host", "wall")}
    return {"status": "ok", "how": times.how} | {name: spread(each) for name, each in found.items() if each}


def ways(problem: Problem, plan: Plan) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """The same launch with descriptors that each program makes, that the host makes each time, and that it keeps."""
    from bench.device.described import fprop_described_kernel

    [(_, programs, given)] = plan.launches
    names = ("B", "F", "P", "Q", "R", "S", "pad_h", "pad_w", "HALVES")
    rest = {name: given[name] for name in names} | constants(given["x_ptr"], plan.tile) | shape(plan.tile)
    rest |= {"C": given["C"] * given["ALIGN_X"], "F": given["F"] * given["ALIGN_Y"]}
    kept = described(given, plan)

    def start(descriptors: dict[str, Any]) -> tuple[Tensor, ...]:
        fprop_described_kernel[(programs,)](**descriptors, **rest)
        return plan.results

    return {
        "programs": lambda: launch.run(plan),
        "host": lambda: start(described(given, plan)),
        "host, kept": lambda: start(kept),
    }


def described(given: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The image, the weight and the result of a launch as its programs describe them, and which blocks are copied."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    tile = plan.tile
    image, result = (given[name].permute(0, 2, 3, 1).unsqueeze(3) for name in ("x_ptr", "y_ptr"))
    weight = given["weight_ptr"].flatten(1).unsqueeze(0)
    pixels = [tile.BLOCK_B, tile.BLOCK_H, tile.BLOCK_W, 1]
    return {
        "image": TensorDescriptor.from_tensor(image, [*pixels, tile.BLOCK_K]),
        "weight": TensorDescriptor.from_tensor(weight, [1, tile.BLOCK_N, tile.BLOCK_K]),
        "result": TensorDescriptor.from_tensor(result, [*pixels, tile.BLOCK_N // (2 if tile.halves else 1)]),
    }
