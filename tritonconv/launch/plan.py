"""What will be launched, as values. Tests look at them, and `tritonconv.warmup` compiles from them without a launch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.tiling.tile import Operands, Tile

# What a launch passes to Triton's compiler, and not to the kernel. `launch_pdl` makes it a programmatic dependent
# launch. Only compilers for NVIDIA's GPUs know that option, so other launches leave it out.
LAUNCH_OPTIONS = ("num_warps", "num_stages", "launch_pdl")


class Launch(NamedTuple):
    """One launch of a kernel: how many programs, and with which arguments."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]

    @property
    def descriptors(self) -> dict[str, HostDescriptor]:
        """The arguments that are TMA descriptors of the host, by their names."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, HostDescriptor)}

    def in_triton(self) -> dict[str, Any]:
        """Return the arguments as Triton's public interface takes them."""
        return self.arguments | {name: value.in_triton() for name, value in self.descriptors.items()}

    @property
    def variant(self) -> tuple[Any, ...]:
        """The kernel's name, and what Triton compiles it for: what `compiled_for` returns for each argument."""
        return self.kernel.__name__, *((name, compiled_for(name, value)) for name, value in self.arguments.items())


def compiled_for(name: str, value: Any) -> Any:
    """Return what Triton compiles an argument for.

    For a tensor that is its dtype, and whether its address is a multiple of 16 bytes. A bias counts as aligned, because
    Triton ignores its alignment (`do_not_specialize_on_alignment`). For None and for constants it is the value itself.
    For a descriptor it is the dtype of its tensor, and the shape of a block. Constants have names of two or more
    capitals, or are LAUNCH_OPTIONS. Other arguments are integers: "i32" below 2^31, or else "i64".
    """
    if isinstance(value, HostDescriptor):
        assert value.tensor is not None
        return str(value.tensor.dtype), value.block_shape
    if isinstance(value, Tensor):
        return str(value.dtype), name == "bias_ptr" or value.data_ptr() % 16 == 0
    if value is None or name in LAUNCH_OPTIONS or (name.isupper() and len(name) > 1):
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
        """Return what `how` makes of the operand: the operand itself, or a copy, which is added to this list.

        Copies of operands without data are not added, because all their addresses are zero. `plan_cache.keep`, which
        reads the list, is called only for plans that have run.
        """
        lying = how(operand)
        if lying.data_ptr() != operand.data_ptr():
            self.append((lying, operand, how))
        return lying


class Plan(NamedTuple):
    """How a call is computed: the results, which are not computed yet, and the kernels to launch, with their tile.

    `results` has the result, and for `wgrad_with_bias` also the gradient of the bias. `request` is what a tile is
    chosen for. `tile` is the one that `tile_for` chose for it, unless the caller of `plan` gave one. `copies` are the
    copies of operands that the kernels read. `workspaces` is the memory for partial sums. `reduced` says that memory
    did not suffice for the chosen tile, so that `tile` has a smaller SPLIT_K.
    """

    results: tuple[Tensor, ...]
    launches: list[Launch]
    tile: Tile
    request: TileRequest
    copies: Copies
    workspaces: tuple[Tensor, ...] = ()
    reduced: bool = False
