"""What will be launched, as values. Tests look at them, and `tritonconv.warmup` compiles from them without a launch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling.tile import Operands, Tile


class Launch(NamedTuple):
    """One launch of a kernel: how many programs, and with which arguments."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]

    @property
    def variant(self) -> tuple[Any, ...]:
        """What Triton compiles the kernel for: constants, types and alignments of pointers, and widths of integers."""
        return self.kernel.__name__, *((name, compiled_for(name, value)) for name, value in self.arguments.items())


def compiled_for(name: str, value: Any) -> Any:
    """Return what Triton compiles an argument for.

    Names in capitals, of two letters or more, are those of constants. Triton ignores the alignment of the bias
    (`do_not_specialize_on_alignment`).
    """
    if isinstance(value, Tensor):
        return str(value.dtype), name == "bias_ptr" or value.data_ptr() % 16 == 0
    if value is None or name.startswith("num_") or (name.isupper() and len(name) > 1):
        return value
    return "i32" if value < 2**31 else "i64"


class TileRequest(NamedTuple):
    """The arguments of `pick`: the problem that a tile is chosen for."""

    geometry: ConvGeometry
    operator: Operator
    operands: Operands
    gpu: Gpu


class Copies(list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]):
    """Copies of operands. Each entry has the copy, its original, and the function that made it."""

    def lay(self, operand: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the operand as the function `how` lays it out: the operand itself, or a copy, which is noted here.

        Copies of operands without data are not noted, because all their addresses are zero. Only plans that have run
        are asked for copies.
        """
        lying = how(operand)
        if lying.data_ptr() != operand.data_ptr():
            self.append((lying, operand, how))
        return lying


class Plan(NamedTuple):
    """How a call is computed: the results, which are not computed yet, and the kernels to launch, with their tile.

    `request` is what the tile was chosen for. `tile` is the one that `pick` returns for it, unless that one, or TMA,
    has failed in this process. `copies` are the copies of operands that the kernels read. `workspaces` is the memory
    for partial sums. `reduced` says that memory did not suffice for the chosen tile, so SPLIT_K is smaller than it
    should be.
    """

    results: tuple[Tensor, ...]
    launches: list[Launch]
    tile: Tile
    request: TileRequest
    copies: Copies
    workspaces: tuple[Tensor, ...] = ()
    reduced: bool = False
