"""Whether TMA descriptors that the host makes give the same bits as those that programs build, on small problems.

Each unit is one operator, or one layer with all its gradients, on one problem in one dtype. It is computed both ways:
with the architecture's `host_descriptors` off and on. Both must give the same bits. On integers, whose sums are exact,
they must also agree with torch in float64.
"""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bench.device.exactness_units import Unit
from bench.device.ways import forced, forget_failures, same_bits, switched
from bench.results import Row, kernels_of
from bench.run.contenders import DTYPES
from tests.support.oracle import convolution_precision
from tritonconv import runtime
from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import failures, kept_descriptors, plan_cache
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.launch.plan import Plan

SWITCH = "host_descriptors"


def descriptors(plan: Plan) -> dict[str, HostDescriptor]:
    """Return the descriptors that the host makes for a plan, by the names of the arguments."""
    return {name: value for launch in plan.launches for name, value in launch.descriptors.items()}


def described(plans: dict[Operator, Plan]) -> str:
    """Return a hash of what the host's descriptors describe, in all plans."""
    found = [
        (operator, name, *value[1:]) for operator, plan in plans.items() for name, value in descriptors(plan).items()
    ]
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:12]


def about(unit: Unit, gpu: Gpu, kernels: dict[str, str]) -> Row:
    """Return the fields of a unit's row that do not depend on its results.

    `descriptors` is the hash of what the host's descriptors describe on `gpu` if the switch is on. `kernels` are the
    names of all operators' kernels.
    """
    plans = unit.plans(gpu.switched(**{SWITCH: True}))
    return {
        "what": "exactness",
        "switch": SWITCH,
        "unit": unit.name,
        "dtype": unit.dtype,
        "tile": {operator: str(plan.tile) for operator, plan in plans.items()},
        "host": {operator: sorted(descriptors(plan)) for operator, plan in plans.items()},
        "descriptors": described(plans),
        "kernels": kernels_of(unit.operators, kernels),
    }


class NotKept(RuntimeError):
    """Plans or descriptors were not kept, so a repeated call was not what it should be."""


def check(unit: Unit, device: torch.device, row: Row, many: int) -> Row:
    """Return the row with the outcome of a unit. `many` is how many addresses some of its calls have, or 0.

    The status is "ok" or "wrong", or "skipped" if the host makes no descriptors and should make none. Raise an error
    if a call fails, or if it is not computed as it should be.
    """
    described = {operator: len(names) for operator, names in row["host"].items()}
    made = {operator for operator, count in described.items() if count}
    if unit.by_programs:
        if made:
            raise NotKept(f"the host makes descriptors for {', '.join(sorted(made))}, where none were expected")
        return row | {"status": "skipped", "reason": "both ways are the same: the host makes no descriptors here"}
    by_choice = {"wgrad"} if unit.dtype == "tf32" else set()  # which gathers pixels
    if made != set(unit.operators) - by_choice:
        raise NotKept(f"the host makes descriptors only for {', '.join(sorted(made)) or 'no operator'}")
    own, _ = results_of(unit, device, False, described, many)
    host, kept = results_of(unit, device, True, described, many)
    wrong = [label for label in own if not same_bits(own[label], host[label])]
    exact = unit.in_float64(unit.draw("integers", 0, device))
    rounded = tuple(each.to(DTYPES[unit.dtype]) for each in exact)
    wrong += ["integers, against float64"] * (not same_bits(host["integers"], rounded))
    row = row | {"checks": [*own, "integers, against float64"], "kept": kept, "status": "ok"}
    if wrong:
        row |= {"status": "wrong", "reason": f"other bits: {'; '.join(wrong)}"}
    return row


def results_of(
    unit: Unit, device: torch.device, on: bool, made: dict[Operator, int], many: int
) -> tuple[dict[str, tuple[Tensor, ...]], dict[str, Any]]:
    """Return the results of a unit with the switch on or off, and how its plans and descriptors were kept.

    `made` says how many descriptors the host makes for each operator if the switch is on.

    The first call is planned, and all later ones run its kept plan. They take the same tensors, and then tensors at
    other addresses. These are more than descriptors are kept for, if `many` is. The last calls take new tensors, after
    the first ones are freed.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    precision = "tf32" if unit.dtype == "tf32" else "ieee"
    forget_failures()
    with switched(**{SWITCH: on}), forced(unit.tiles), convolution_precision(precision), quiet():
        first = unit.draw("integers", 0, device)
        found["integers"] = unit.compute(first)
        found["the same tensors again"] = unit.compute(first)
        if many:
            found["the same tensors once more"] = unit.compute(first)
        plans = list(plan_cache.plans.entries.values())
        for kind in ("random", "not finite"):
            found[kind] = unit.compute(unit.draw(kind, 0, device))
        if many:
            held = [unit.draw("random", number, device) for number in range(1, many + 1)]
            for _ in range(2):
                results = [result for operands in held for result in unit.compute(operands)]
            found["many addresses"] = tuple(results)
            del held
            found["the first tensors again"] = unit.compute(first)
        before = {tensor.data_ptr() for tensor in first.values()}
        del first
        fresh = unit.draw("integers", 1, device)
        reused = len(before & {tensor.data_ptr() for tensor in fresh.values()})
        found["after the first tensors were freed"] = unit.compute(fresh)
        del fresh
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            found["after their memory was returned"] = unit.compute(unit.draw("integers", 2, device))
        kept = list(plan_cache.plans.entries.values())
    if failures.any_happened():
        raise NotKept(f"this failed and was avoided: {'; '.join(failures._reasons.values())}")
    if len(plans) != len(unit.operators) or {id(each) for each in plans} != {id(each) for each in kept}:
        raise NotKept(f"plans of {len(unit.operators)} operators should be kept, and not {len(plans)} or others")
    if any(unit.tiles.get(plan.request.operator, plan.tile) != plan.tile for plan in kept):
        raise NotKept(f"other tiles were run: {', '.join(str(plan.tile) for plan in kept)}")
    return found, {"reused": reused} | (use_of_descriptors(kept, made, many) if on else {})


def quiet() -> AbstractContextManager[object]:
    """Return a block within which numpy, by which the interpreter computes, does not warn of infinity times zero."""
    if not runtime.interpreted():
        return nullcontext()
    import numpy

    return numpy.errstate(invalid="ignore")


def use_of_descriptors(plans: Sequence[Any], made: dict[Operator, int], many: int) -> dict[str, Any]:
    """Return how often the plans' descriptors were filled, and how often one was found.

    `made` says how many the host makes for each operator. Raise NotKept if compiled kernels are not started with these,
    or if many addresses evict no descriptor. In the interpreter no descriptors are kept.
    """
    if runtime.interpreted():
        return {}
    caches = []
    for plan in plans:
        kept = [descriptor_at.cache_info() for launch in plan.launches for _, _, descriptor_at in launch.descriptors]
        if plan.triton is None or len(kept) != made[plan.request.operator]:
            raise NotKept(f"{plan.request.operator} is not started with descriptors that are kept")
        caches += kept
    filled, hits = sum(cache.misses for cache in caches), sum(cache.hits for cache in caches)
    if hits == 0 or (
        many > kept_descriptors.KEPT_DESCRIPTORS and all(cache.misses == cache.currsize for cache in caches)
    ):
        raise NotKept(f"no descriptor was used again, or none was evicted: {caches}")
    return {"filled": filled, "found": hits}
