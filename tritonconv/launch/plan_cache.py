"""The plan cache: plans that have run, for later calls that differ only in the addresses of their tensors.

Choosing an implementation and a tile, and planning, takes the host longer than a small layer takes the GPU. A training
loop makes the same calls again and again. So a plan is kept, under a key of all that it depends on, with the kernels
that Triton has compiled for it. A later call fills in its own tensors.

Triton's knobs, and pre-run hooks of a kernel, are read when a call is planned. Launch hooks are read at each start.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.launch import launchers
from tritonconv.launch.bounded_cache import BoundedCache
from tritonconv.launch.kept_plan import Allocation, KeptPlan
from tritonconv.launch.plan import Plan

plans: BoundedCache[KeptPlan] = BoundedCache()


# Where a key has torch's switch for TF32, which counts in float32 only.
TF32 = 2


def key(call: Call) -> tuple[Hashable, ...]:
    """Return the key of `call` in the cache: all that its plan depends on.

    That is the operator, the settings, what `described` returns for each tensor, and, in float32, torch's switch for
    TF32.
    """
    first, second = call.factors
    return (
        call.name,
        call.settings,
        first.dtype == torch.float32 and runtime.tf32_allowed(),
        described(first),
        described(second),
        None if call.bias is None else described(call.bias),
    )


def described(tensor: Tensor) -> tuple[Hashable, ...]:
    """Return everything about a tensor that tiles, arguments and compiled kernels depend on.

    Of the address, only its remainder modulo 16 counts. On AMD's GPUs, Triton also compiles anew for a tensor in a
    storage of more than 2 GB. Either kernel is right for both: equal shapes and strides make equal offsets.
    """
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16


def find(call: Call) -> KeptPlan | None:
    """Return the plan that is kept under the key of `call`. None if none is, or if kernels do not run on the device."""
    if not plans.entries or not (runtime.is_gpu(call.device) or runtime.interpreted()):
        return None
    return plans.get(key(call))


def keep(call: Call, plan: Plan, compiled: Sequence[Any], generation: int) -> None:
    """Keep a plan of `call` that has run, with what starting each of its launches returned.

    `generation` is what `bounded_cache.generation` returned before the plan was chosen. The plan is not kept if

    - that generation is over
    - lack of memory reduced SPLIT_K
    - Triton still compiles a kernel in the background
    - two of its tensors have the same address
    - it was planned for the other position of torch's switch for TF32
    """
    if plan.reduced or not (runtime.interpreted() or all(map(launchers.is_compiled, compiled))):
        return
    copied = [copy for copy, *_ in plan.copies]
    tensors = (*call.factors, call.bias, *plan.results, *plan.workspaces, *copied)
    number_of = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
    if len(number_of) < sum(tensor is not None for tensor in tensors):
        return  # some tensors share an address, which does not tell them apart
    allocated = (*plan.results, *plan.workspaces)
    by_launcher = bool(compiled) and all(map(launchers.has_proven_launcher, plan.launches, compiled))
    kept = KeptPlan(
        tile=plan.tile,
        request=plan.request,
        kind=call.device.type,
        index=call.device.index,
        launches=[
            launchers.kept_launch(*each, call.device, number_of, by_launcher)
            for each in zip(plan.launches, compiled, strict=True)
        ],
        triton=launchers.triton_runtime(call.device) if by_launcher else None,
        allocations=[Allocation(tuple(each.shape), each.stride(), each.dtype) for each in allocated],
        results=len(plan.results),
        copies=[(number_of[original.data_ptr()], how) for _, original, how in plan.copies],
        remainders=[tensor.data_ptr() % 16 for tensor in (*allocated, *copied)],
        multiplies_in_tf32=any(launch.arguments.get("PRECISION") == "tf32" for launch in plan.launches),
    )
    under = key(call)
    if kept.follows_switch(tf32=under[TF32]):
        plans.add(under, kept, generation)
