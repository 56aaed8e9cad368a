"""The plan cache: plans that have run, for later calls that differ only in the addresses of their tensors.

Choosing an implementation and a tile, and planning, takes the host longer than a small layer takes the GPU. A training
loop makes the same calls again and again. So a plan is kept, under a key of all that it depends on, with the kernels
that Triton has compiled for it. A later call fills in its own tensors.

Triton's own switches, and hooks that were added to a kernel, are read only when a call is made for the first time.
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

# At most this many plans are kept. When the cache is full it is emptied: a program with so many shapes does not come
# back to them.
MOST = 4096


class Kept(NamedTuple):
    """A plan without its tensors, which are numbered instead.

    The numbers count the call's two factors and its bias, then the results, the workspaces and the copies of operands.
    `meta_tensors` has one for each result and then for each workspace, which tells how to allocate it. `results` is the
    number of results. `copies` has for each copy the number of its original, and the function that makes it. `pointers`
    has for each launch the names of the arguments that are tensors, with their numbers.
    """

    tile: Tile
    request: TileRequest
    launches: list[Launch]
    meta_tensors: list[Tensor]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    pointers: list[dict[str, int]]


_kept: dict[Hashable, Kept] = {}


# How often the cache was cleared. A plan that was chosen before the last time is not kept.
_generation = 0


def generation() -> int:
    """Return a number that changes when plans that were chosen before must not be kept."""
    return _generation


def clear() -> None:
    """Empty the cache, because the same calls may be planned differently from now on."""
    global _generation
    _generation += 1
    _kept.clear()


def key(call: Call) -> Hashable:
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


def described(tensor: Tensor) -> Hashable:
    """Return everything about a tensor that tiles, arguments and compiled kernels depend on.

    Of the address, only its remainder modulo 16 counts. For AMD's GPUs, kernels also depend on whether the elements end
    within 2 GB. That follows from the shape and the strides.
    """
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16


def find(call: Call) -> Plan | None:
    """Return the plan that is kept under the key of `call`, with the tensors of `call` and new results.

    None if no plan is kept, or if kernels do not run on the device. Also None if there is too little memory: the caller
    then plans the call again, perhaps with a smaller SPLIT_K. Operands are copied, and workspaces allocated, anew. The
    plan can only be started: its `copies` and `workspaces` are empty, because only its launches hold these tensors.
    """
    if not _kept or not (runtime.is_gpu(call.device) or runtime.interpreted()):
        return None
    found = _kept.get(key(call))
    if found is None:
        return None
    tensors: list[Any] = [*call.factors, call.bias]
    own = len(tensors)
    try:
        tensors += [allocate_as(meta, call.device) for meta in found.meta_tensors]
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
    """Keep a plan of `call` that has run, with the kernels that Triton `compiled` for its launches.

    `chosen_in` is what `generation` returned before the plan was chosen. The plan is not kept if that generation is
    over, or if lack of memory reduced SPLIT_K. Nor is it kept if two of its tensors have the same address.
    """
    if plan.reduced:
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
    copies = [(numbers[original.data_ptr()], how) for _, original, how in plan.copies]
    meta_tensors = [without_data(tensor) for tensor in (*plan.results, *plan.workspaces)]
    launches = [without_tensors(*each) for each in zip(plan.launches, compiled, strict=True)]
    if len(_kept) >= MOST:
        _kept.clear()
    kept = Kept(
        tile=plan.tile,
        request=plan.request,
        launches=launches,
        meta_tensors=meta_tensors,
        results=len(plan.results),
        copies=copies,
        pointers=pointers,
    )
    _kept[key(call)] = kept
    if chosen_in != _generation:  # checked last, because another thread may have cleared the cache meanwhile
        _kept.pop(key(call), None)


def without_tensors(launch: Launch, compiled: Any) -> Launch:
    """Return the launch with None in the place of tensors, and with its compiled kernel if there is one.

    `compiled` is what starting the launch returned. It is no compiled kernel in the interpreter, nor while Triton still
    compiles in the background. The launch then keeps its kernel and the names of its arguments.

    A compiled kernel is wrapped in `Compiled`. Its arguments are those of all the kernel's parameters, constants
    included, in their order. Launch options such as `num_warps` are left out.
    """
    kernel, programs, arguments = launch
    arguments = {name: None if isinstance(value, Tensor) else value for name, value in arguments.items()}
    if not hasattr(type(compiled), "__getitem__"):
        return Launch(kernel, programs, arguments)
    return Launch(Compiled(compiled), programs, {name: arguments[name] for name in kernel.arg_names})


class Compiled:
    """A kernel that Triton has compiled. It is started as `kernel[(programs,)](**arguments)`, as others are.

    But the arguments must be those of all parameters, in their order: their names are ignored.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        start = self.kernel[*grid, 1, 1]
        return lambda **arguments: start(*arguments.values())
