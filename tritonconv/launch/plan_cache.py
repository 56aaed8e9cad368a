"""The plan cache: plans that have run, for later calls that differ only in the addresses of their tensors.

Choosing an implementation and a tile, and planning, takes the host longer than a small layer takes the GPU. A training
loop makes the same calls again and again. So a plan is kept, under a key of all that it depends on, with the kernels
that Triton has compiled for it. A later call fills in its own tensors.

Triton's own switches, and hooks that were added to a kernel, are read only when a call is made for the first time.
"""

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.call import Call, without_data
from tritonconv.launch.layout import allocate_as
from tritonconv.launch.plan import Copies, Launch, Plan, TileRequest, is_compiled, without_tensors
from tritonconv.tiling.tile import Tile

# At most this many plans are kept. One more takes the place of the one that was not used for the longest time.
MOST = 4096


@dataclass(slots=True)
class Kept:
    """A plan without its tensors, which are numbered instead.

    The numbers count the call's two factors and its bias, then the results, the workspaces and the copies of operands.
    `meta_tensors` has one for each result and then for each workspace, which tells how to allocate it. `results` is the
    number of results. `copies` has for each copy the number of its original, and the function that makes it.
    `remainders` has the addresses of results, workspaces and copies modulo 16, which the kernels were compiled for.
    `pointers` has for each launch the names of the arguments that are tensors, with their numbers.

    `used` is greater the later the plan was last used.
    """

    tile: Tile
    request: TileRequest
    launches: list[Launch]
    meta_tensors: list[Tensor]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    remainders: list[int]
    pointers: list[dict[str, int]]
    used: int


_kept: dict[Hashable, Kept] = {}
# Counts the uses of all plans. An ordered dictionary would hash the key once more for each use, which takes 50 times as
# long as to store a number.
_uses = count()
# Held while entries are added or removed. `find` does not take it.
_changing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_changing.release)

# How often the cache was cleared. A plan that was chosen before the last time is not kept.
_generation = 0


def generation() -> int:
    """Return a number that changes when plans that were chosen before must not be kept."""
    return _generation


def clear() -> None:
    """Empty the cache, because the same calls may be planned differently from now on."""
    global _generation
    with _changing:
        _generation += 1
        _kept.clear()


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


def find(call: Call) -> Plan | None:
    """Return the plan that is kept under the key of `call`, with the tensors of `call` and new results.

    None if no plan is kept, or if kernels do not run on the device. Also None if there is too little memory: the caller
    then plans the call again, perhaps with a smaller SPLIT_K. And None if new memory is not aligned as it was before,
    because the kernels were compiled for that. Operands are copied, and workspaces allocated, anew. The plan can only
    be started: its `copies` and `workspaces` are empty, because only its launches hold these tensors.
    """
    if not _kept or not (runtime.is_gpu(call.device) or runtime.interpreted()):
        return None
    found = _kept.get(key(call))
    if found is None:
        return None
    found.used = next(_uses)
    tensors: list[Any] = [*call.factors, call.bias]
    own = len(tensors)
    try:
        for meta in found.meta_tensors:
            tensors.append(allocate_as(meta, call.device))
        for original, how in found.copies:
            tensors.append(how(tensors[original]))
    except torch.OutOfMemoryError:
        return None
    for tensor, remainder in zip(tensors[own:], found.remainders, strict=True):
        if tensor.data_ptr() % 16 != remainder:
            return None
    launches = []  # filled by loops, because comprehensions are functions, which take Python longer to enter
    for (kernel, programs, kept_arguments), pointers in zip(found.launches, found.pointers, strict=True):
        arguments = kept_arguments.copy()
        for name, i in pointers.items():
            arguments[name] = tensors[i]
        launches.append(Launch(kernel, programs, arguments))
    results = tuple(tensors[own : own + found.results])
    return Plan(results, launches, found.tile, found.request, Copies())


def keep(call: Call, plan: Plan, compiled: Sequence[Any], chosen_in: int) -> None:
    """Keep a plan of `call` that has run, with what starting each of its launches returned.

    `chosen_in` is what `generation` returned before the plan was chosen. The plan is not kept if that generation is
    over, if lack of memory reduced SPLIT_K, or if Triton still compiles a kernel in the background. Nor is it kept if
    two of its tensors have the same address, or if it was planned for the other position of torch's switch for TF32.
    """
    if plan.reduced or not (runtime.interpreted() or all(map(is_compiled, compiled))):
        return
    copied = [copy for copy, *_ in plan.copies]
    tensors = (*call.factors, call.bias, *plan.results, *plan.workspaces, *copied)
    numbers = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
    if len(numbers) < sum(tensor is not None for tensor in tensors):
        return  # some tensors share an address, which does not tell them apart
    pointers = [
        {name: numbers[value.data_ptr()] for name, value in each.arguments.items() if isinstance(value, Tensor)}
        for each in plan.launches
    ]
    kept = Kept(
        tile=plan.tile,
        request=plan.request,
        launches=[without_tensors(*each) for each in zip(plan.launches, compiled, strict=True)],
        meta_tensors=[without_data(tensor) for tensor in (*plan.results, *plan.workspaces)],
        results=len(plan.results),
        copies=[(numbers[original.data_ptr()], how) for _, original, how in plan.copies],
        remainders=[tensor.data_ptr() % 16 for tensor in (*plan.results, *plan.workspaces, *copied)],
        pointers=pointers,
        used=next(_uses),
    )
    _, _, tf32, *_ = under = key(call)
    if follows_switch(plan, tf32):
        add(under, kept, chosen_in)


def follows_switch(plan: Plan, tf32: object) -> bool:
    """Whether the plan's tile and products are those for this position of torch's switch for TF32.

    They are not if another thread has set the switch after the plan was chosen. Other dtypes than float32 ignore it.
    """
    operands = plan.request.operands
    in_tf32 = any(launch.arguments.get("PRECISION") == "tf32" for launch in plan.launches)
    return in_tf32 == tf32 and operands.exact == (operands.itemsize == 4 and not tf32)


def add(under: Hashable, kept: Kept, chosen_in: int) -> None:
    """Add a plan to the cache, unless the generation that it was chosen in is over. Remove the least recently used."""
    with _changing:
        if chosen_in != _generation:
            return
        _kept[under] = kept
        while len(_kept) > MOST:
            least_recently_used, _ = min(_kept.items(), key=lambda entry: entry[1].used)
            del _kept[least_recently_used]
