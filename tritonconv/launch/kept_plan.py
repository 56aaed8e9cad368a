"""`KeptPlan`: a plan that has run, without its tensors, for later calls that differ only in addresses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, empty_strided

from tritonconv.launch.plan import TileRequest
from tritonconv.tiling.tile import Tile

# How many tensors of a call a plan reads at most: two factors and a bias.
OPERANDS = 3


class Allocation(NamedTuple):
    """A tensor that a plan allocates."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class KeptLaunch(NamedTuple):
    """A launch without its tensors.

    `start` starts it with the values of its arguments, in their order. `values` has these, with None in the place of
    tensors. `pointers` has the positions of tensors, each with the tensor's number in the plan.
    """

    start: Callable[[list[Any]], object]
    values: list[Any]
    pointers: list[tuple[int, int]]


@dataclass(slots=True)
class KeptPlan:
    """A plan without its tensors, which are numbered instead.

    The numbers count the call's two factors and its bias, then the results, the workspaces and the copies of operands.
    `allocations` has one for each result and then for each workspace. `results` is the number of results. `copies` has
    for each copy the number of its original, and the function that makes it. `remainders` has the addresses of results,
    workspaces and copies modulo 16, which the kernels were compiled for.

    `used` is greater the later the plan was last used.
    """

    tile: Tile
    request: TileRequest
    device: torch.device
    launches: list[KeptLaunch]
    allocations: list[Allocation]
    results: int
    copies: list[tuple[int, Callable[[Tensor], Tensor]]]
    remainders: list[int]
    used: int = 0

    def filled(self, first: Tensor, second: Tensor, bias: Tensor | None) -> list[Any] | None:
        """Return the tensors of a call, by their numbers: its operands, with new results, workspaces and copies.

        Return None if there is too little memory: the caller then plans the call again, perhaps with a smaller SPLIT_K.
        Return None, too, if new memory is not aligned as it was before, because the kernels were compiled for that.
        """
        tensors: list[Any] = [first, second, bias]
        device = self.device
        try:
            for shape, strides, dtype in self.allocations:
                tensors.append(empty_strided(shape, strides, dtype=dtype, device=device))
            for original, how in self.copies:
                tensors.append(how(tensors[original]))
        except torch.OutOfMemoryError:
            return None
        number = OPERANDS  # counted without `enumerate` or a slice, which take longer
        for remainder in self.remainders:
            if tensors[number].data_ptr() % 16 != remainder:
                return None
            number += 1
        return tensors

    def results_in(self, tensors: list[Any]) -> tuple[Tensor, ...]:
        """Return the results among the tensors that `filled` returned."""
        return tuple(tensors[OPERANDS : OPERANDS + self.results])
