"""`KeptPlan`: a plan that has run, without its tensors, for later calls that differ only in addresses."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.launch.plan import TileRequest
from tritonconv.tiling.tile import Tile

# How many operands a plan has: two factors and a bias, which may be None.
OPERANDS = 3

Allocate = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]


def allocator_of(kind: str) -> Allocate:
    """Return a function that allocates memory on this kind of device: on the CPU, or on the current GPU.

    It is the function by which code that `torch.compile` generates allocates. If torch lacks it, it is
    `torch.empty_strided`, which takes twice as long.
    """

    def allocate(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=kind)

    quick: Allocate = getattr(torch._C._dynamo.guards, f"_empty_strided_{kind}", allocate)
    return quick


# The functions that allocate results and workspaces, by the kind of device.
allocators = {kind: allocator_of(kind) for kind in ("cpu", "cuda")}


class Allocation(NamedTuple):
    """A tensor that a plan allocates: a result or a workspace."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class KeptLaunch(NamedTuple):
    """A launch without its tensors.

    `start` starts it by Triton's public interface, or in the interpreter. It takes the plan's tensors, by their
    numbers. The other fields are for the compiled kernel's launcher, and are None or empty if that must not be called.

    `values` are the arguments of the launcher, with None in the place of tensors and TMA descriptors. `pointers` has
    the positions of the tensors among them, each with the tensor's number. `descriptors` has the positions of the
    descriptors, each with the number of its tensor, and the function that returns the descriptor of an address.
    """

    start: Callable[[list[Any]], object]
    launcher: Any
    function: Any
    metadata: Any
    programs: int
    values: list[Any]
    pointers: list[tuple[int, int]]
    descriptors: list[tuple[int, int, Callable[[int], Any]]]


class TritonRuntime(NamedTuple):
    """What calling the launchers of compiled kernels takes beside these.

    `stream_of` returns the current stream of a GPU, by its index. `hooks` has the launch hooks. `allocator` is the
    context variable with the function that Triton calls for memory that a kernel needs. `scratch` is ours.
    """

    stream_of: Callable[[int | None], int]
    hooks: Any
    allocator: ContextVar[Any]
    scratch: Callable[..., Tensor]


@dataclass(slots=True)
class KeptPlan:
    """A plan without its tensors, which are numbered instead.

    The numbers count the call's two factors and its bias, then the results, the workspaces and the copies of operands.
    `allocations` has one for each result and then for each workspace. `results` is the number of results. `copies` has
    for each copy the number of its original, and the function that makes it. `remainders` has the addresses of results,
    workspaces and copies modulo 16, which the kernels were compiled for.

    `kind` and `index` are those of the device, for example "cuda" and 0. `triton` is None if the launchers must not be
    called. `used` grows with each use. `tile` and `request` say what was planned, and are not read in a call.
    """

    tile: Tile
    request: TileRequest
    kind: str
    index: int | None
    launches: list[KeptLaunch]
    triton: TritonRuntime | None
    allocations: list[Allocation]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    remainders: list[int]
    multiplies_in_tf32: bool
    used: int = 0

    def filled(self, first: Tensor, second: Tensor, bias: Tensor | None) -> list[Any] | None:
        """Return the tensors of a call, by their numbers: its operands, with new results, workspaces and copies.

        They are allocated on the current GPU. Return None if there is too little memory: the caller then plans the call
        again, perhaps with a smaller SPLIT_K. Return None, too, if new memory is not aligned as it was before, because
        the kernels were compiled for that.
        """
        tensors: list[Any] = [first, second, bias]
        allocate = allocators[self.kind]
        try:
            for shape, strides, dtype in self.allocations:
                tensors.append(allocate(shape, strides, dtype))
            for original, how in self.copies:
                tensors.append(how(tensors[original]))
        except torch.OutOfMemoryError:
            return None
        number = OPERANDS
        for remainder in self.remainders:
            if tensors[number].data_ptr() % 16 != remainder:
                return None
            number += 1
        return tensors

    def follows_switch(self, tf32: object) -> bool:
        """Whether the tile and the products are those for this position of torch's switch for TF32.

        They are not if another thread has set the switch after the plan was chosen. Other dtypes than float32 ignore
        it.
        """
        operands = self.request.operands
        return self.multiplies_in_tf32 == tf32 and operands.exact == (operands.itemsize == 4 and not tf32)

    def results_in(self, tensors: list[Any]) -> tuple[Tensor, ...]:
        """Return the results among the tensors that `filled` returned."""
        return tuple(tensors[OPERANDS : OPERANDS + self.results])
