"""Plans that were run before, for calls that differ from theirs in nothing but addresses.

To choose an implementation and a tile, and to lay out what a kernel is told, takes the host longer than small layers
take the GPU; and a training loop asks for the same again and again. So what a plan came to is kept by all that it
depends on, with the kernels that Triton has compiled for it, and is given the tensors of the call at hand.

Triton's own switches, and hooks that were added to a kernel, are looked at when a call is made for the first time.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.launch import failed_tiles
from tritonconv.launch.layout import allocate_as, without_data
from tritonconv.launch.plan import Copies, Launch, Plan

# So many are kept; beyond them, all are forgotten: who has so many shapes does not come back to them.
MOST = 4096


class Kept(NamedTuple):
    """A plan without its tensors. These are numbered: the call's own three, what is allocated, and copies.

    `layouts` are those of what is allocated, of which the first are `results`; `copies` has of each the number of its
    original, and how it is made. `pointers` says for each launch which arguments are tensors, and which.
    """

    plan: Plan
    layouts: list[Tensor]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    pointers: list[dict[str, int]]


_kept: dict[Hashable, Kept] = {}


def clear() -> None:
    """Forget all, for what was chosen then may be chosen otherwise now."""
    _kept.clear()


def key(first: Tensor, second: Tensor, bias: Tensor | bool | None, call: Hashable) -> Hashable:
    """All that a plan depends on: what the `call` says beside its tensors, their layouts, and torch's switches."""
    return (
        call,
        first.dtype == torch.float32 and runtime.tf32_allowed(),
        described(first),
        described(second),
        described(bias) if isinstance(bias, Tensor) else bias,
    )


def described(tensor: Tensor) -> Hashable:
    """What tiles, arguments and compiled kernels depend on. (For AMD's GPUs they also depend on whether what is reached
    of a tensor ends within 2 GB, which follows from its shape and strides.)
    """
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16


def again(first: Tensor, second: Tensor, bias: Tensor | bool | None, call: Hashable) -> Plan | None:
    """The plan for such a call, if one was kept, with new results; None also if memory is short."""
    if not _kept or not (runtime.is_gpu(first.device) or runtime.interpreted()):
        return None
    found = _kept.get(key(first, second, bias, call))
    if found is None:
        return None
    tensors: list[Any] = [first, second, bias]
    own = len(tensors)
    try:
        tensors += [allocate_as(layout, first.device) for layout in found.layouts]
        for original, how in found.copies:
            tensors.append(how(tensors[original]))
    except torch.OutOfMemoryError:
        return None
    launches = [
        Launch(kernel, programs, arguments | {name: tensors[i] for name, i in pointers.items()})
        for (kernel, programs, arguments), pointers in zip(found.plan.launches, found.pointers, strict=True)
    ]
    return found.plan._replace(results=tuple(tensors[own : own + found.results]), launches=launches, compiled=[])


def keep(plan: Plan, first: Tensor, second: Tensor, bias: Tensor | bool | None, call: Hashable) -> None:
    """Keep a plan that has run, unless it was not as it should be, for lack of memory."""
    if plan.tile != failed_tiles.tile_for(plan.asked):
        return
    copied = [copy for copy, *_ in plan.copies]
    tensors = (first, second, bias, *plan.results, *plan.workspaces, *copied)
    numbers = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if isinstance(tensor, Tensor)}
    if len(numbers) < sum(isinstance(tensor, Tensor) for tensor in tensors):
        return  # of some the addresses do not tell which they are
    pointers = [
        {name: numbers[value.data_ptr()] for name, value in each.arguments.items() if isinstance(value, Tensor)}
        for each in plan.launches
    ]
    copies = [(numbers[original.data_ptr()], how) for _, original, how in plan.copies]
    layouts = [without_data(tensor) for tensor in (*plan.results, *plan.workspaces)]
    launches = [without_tensors(*each) for each in zip(plan.launches, plan.compiled, strict=True)]
    if len(_kept) >= MOST:
        clear()
    skeleton = plan._replace(results=(), launches=launches, copies=Copies(), workspaces=(), compiled=[])
    _kept[key(first, second, bias, call)] = Kept(skeleton, layouts, len(plan.results), copies, pointers)


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
