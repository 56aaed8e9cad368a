"""Plans that were run before, for calls that differ from theirs in nothing but addresses.

Choosing an implementation and a tile, and planning, takes the host longer than a small layer takes the GPU. A training
loop makes the same calls again and again. So a plan is kept, under a key of all that it depends on, with the
kernels that Triton has compiled for it. A later call fills in its own tensors.

Triton's own switches, and hooks that were added to a kernel, are looked at when a call is made for the first time.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.call import Call, without_data
from tritonconv.launch.layout import allocate_as
from tritonconv.launch.plan import Copies, Launch, Plan, TileRequest
from tritonconv.tiling.tile import Tile

# At most so many plans are kept. One more, and all are forgotten: a program with so many shapes does not come back to
# them.
MOST = 4096


class Kept(NamedTuple):
    """A plan without its tensors. These are numbered: the call's own three, what is allocated, and copies.

    `layouts` are those of the results and then of the workspaces, and `results` is the number of results. `copies` has
    for each copy the number of its original, and how it is made. `pointers` has for each launch the names of the
    arguments that are tensors, with the numbers of these.
    """

    tile: Tile
    request: TileRequest
    launches: list[Launch]
    layouts: list[Tensor]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    pointers: list[dict[str, int]]


_kept: dict[Hashable, Kept] = {}


# Counts the calls of `clear`. A plan that was chosen before the last of them is not kept.
_generation = 0


def generation() -> int:
    """A number that changes when plans that were chosen before must not be kept."""
    return _generation


def clear() -> None:
    """Forget all, for what was chosen then may be chosen otherwise now."""
    global _generation
    _generation += 1
    _kept.clear()


def key(call: Call) -> Hashable:
    """All that a plan depends on: what the call says beside its tensors, their layouts, and torch's switches."""
    first, second = call.factors
    return (
        call.name,
        call.settings,
        first.dtype == torch.float32 and runtime.tf32_allowed(),
        described(first),
        described(second),
        None if call.bias is None else described(call.bias),
    )


def described(tensor: Tensor) -> Hashable:
    """What tiles, arguments and compiled kernels depend on. (For AMD's GPUs they also depend on whether what is reached
    of a tensor ends within 2 GB, which follows from its shape and strides.)
    """
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16


def find(call: Call) -> Plan | None:
    """The plan of such a call, if one is kept, with new results.

    None also if there is too little memory: then the call is planned again, perhaps with a smaller SPLIT_K. The plan
    can only be started. Its launches hold the copies and workspaces.
    """
    if not _kept or not (runtime.is_gpu(call.device) or runtime.interpreted()):
        return None
    found = _kept.get(key(call))
    if found is None:
        return None
    tensors: list[Any] = [*call.factors, call.bias]
    own = len(tensors)
    try:
        tensors += [allocate_as(layout, call.device) for layout in found.layouts]
        for original, how in found.copies:
            tensors.append(how(tensors[original]))
    except torch.OutOfMemoryError:
        return None
    launches = [
        Launch(kernel, programs, arguments | {name: tensors[i] for name, i in pointers.items()})
        for (kernel, programs, arguments), pointers in zip(found.launches, found.pointers, strict=True)
    ]
    results = tuple(tensors[own : own + found.results])
    return Plan(results, launches, found.tile, found.request, Copies())


def keep(call: Call, plan: Plan, compiled: Sequence[Any], chosen_in: int) -> None:
    """Keep a plan that has run, with what Triton `compiled` for each launch.

    A plan is not kept if lack of memory reduced it, nor if the generation in which it was chosen is over.
    """
    if plan.reduced:
        return
    copied = [copy for copy, *_ in plan.copies]
    tensors = (*call.factors, call.bias, *plan.results, *plan.workspaces, *copied)
    numbers = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
    if len(numbers) < sum(tensor is not None for tensor in tensors):
        return  # some tensors share an address, which does not tell which of them it is
    pointers = [
        {name: numbers[value.data_ptr()] for name, value in each.arguments.items() if isinstance(value, Tensor)}
        for each in plan.launches
    ]
    copies = [(numbers[original.data_ptr()], how) for _, original, how in plan.copies]
    layouts = [without_data(tensor) for tensor in (*plan.results, *plan.workspaces)]
    launches = [without_tensors(*each) for each in zip(plan.launches, compiled, strict=True)]
    if len(_kept) >= MOST:
        _kept.clear()
    kept = Kept(
        tile=plan.tile,
        request=plan.request,
        launches=launches,
        layouts=layouts,
        results=len(plan.results),
        copies=copies,
        pointers=pointers,
    )
    _kept[key(call)] = kept
    if chosen_in != _generation:  # looked at afterwards, because another thread may have cleared in between
        _kept.pop(key(call), None)


def without_tensors(launch: Launch, compiled: Any) -> Launch:
    """The launch with None in the place of tensors, and with the compiled kernel, if there is one: not in the
    interpreter, nor where it is still being compiled in the background.
    """
    kernel, programs, arguments = launch
    arguments = {name: None if isinstance(value, Tensor) else value for name, value in arguments.items()}
    if not hasattr(type(compiled), "__getitem__"):
        return Launch(kernel, programs, arguments)
    return Launch(Compiled(compiled), programs, {name: arguments[name] for name in kernel.arg_names})


class Compiled:
    """A kernel that Triton has compiled, to be started as others are, but with all parameters in their order."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        start = self.kernel[*grid, 1, 1]
        return lambda **arguments: start(*arguments.values())
