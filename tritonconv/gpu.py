"""The limits and peak rates of every GPU architecture. The cost model, `fits`, dispatch and `bench lowering` read them.

To add a GPU, add a row to `ARCHITECTURES`. Also add its peaks and shared memory, as its maker states them, to
`tests/kernels/test_gpu.py`, which checks every row. `python -m bench tune` writes the tiles that were measured on a GPU
to `tiling/measured_tiles/`.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

KIB = 1024
# The lowest compute capability, times ten, for which Triton multiplies on tensor cores.
LEAST_CAPABILITY = 80
# Instructions that a multiprocessor issues per cycle: one for each of its four schedulers.
ISSUES = 4


class Multiprocessor(NamedTuple):
    """What one multiprocessor can hold at the same time. `shared_bytes` is None if shared memory has no limit."""

    warps: int
    blocks: int
    shared_bytes: int | None
    reserved_bytes: int = KIB  # of shared memory, which the system keeps for each block
    registers: int = 65_536  # of 32 bits
    register_granule: int = 256  # the unit in which a warp gets registers
    lanes: int = 32  # threads of a warp


class Products(NamedTuple):
    """Multiply-adds per cycle of one multiprocessor, with sums in float32 and without sparsity."""

    half: int  # float16 and bfloat16, on tensor cores
    tf32: int
    float32: int  # outside the tensor cores


class Bandwidth(NamedTuple):
    """Bytes per cycle that one multiprocessor gets from the L2 cache and from DRAM."""

    l2: float
    memory: float


class Rates(NamedTuple):
    """The rates that the cost model divides by."""

    products: Products
    bandwidth: Bandwidth


class DataSheet(NamedTuple):
    """One GPU of an architecture, as its maker describes it."""

    name: str
    multiprocessors: int
    clock_ghz: float


@dataclass(frozen=True, repr=False)
class Architecture:
    """What all GPUs of an architecture have in common. `name` is what compilers call it: sm_90, gfx942.

    - `multiprocessor` is what one multiprocessor can hold.
    - `vendor` is None for Triton's interpreter.
    - `accumulators` is the most accumulators that a thread may hold in fprop and dgrad, `wgrad_accumulators` in wgrad.
      None is no limit.
    - `tma` says that the GPU has TMA.
    - `host_descriptors` says that the host makes TMA descriptors where it can (`tiling.descriptors`). It is true only
      if a record in `bench/results` shows that the results are exact on such a GPU.
    - `products_from_shared` says that tensor cores read operands from shared memory (WGMMA, tcgen05).
    - `halves_share` says that TMA copies both halves of a block of results out through the same buffer in shared
      memory. `Tile.halves` says whether a tile has halves.
    - `stages` is the only `num_stages` that Triton's pipeliner accepts, or None if it accepts others.
    - `products` and `bandwidth` are the rates, or None if they are not known.
    - `rates_from` names the architecture whose rates the cost model takes, or None for the row's own.
    - `dependent_launch` says that wgrad's second kernel is a programmatic dependent launch (PDL), which starts while
      programs of the first still run. sm_90 and newer have it. It is on only where a GPU has run it: nowhere yet.
    - `data_sheet` is the GPU that `bench lowering` compiles for. It compiles for no architecture without one.
    """

    name: str
    multiprocessor: Multiprocessor
    vendor: Literal["NVIDIA", "AMD"] | None = "NVIDIA"
    accumulators: int | None = 64
    wgrad_accumulators: int | None = 64
    tma: bool = False
    host_descriptors: bool = False
    products_from_shared: bool = False
    halves_share: bool = True
    stages: int | None = None
    products: Products | None = None
    bandwidth: Bandwidth | None = None
    rates_from: str | None = None
    dependent_launch: bool = False
    data_sheet: DataSheet | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def capability(self) -> int | None:
        """The compute capability times ten: 90 for 9.0. None for all but NVIDIA's architectures."""
        return int(self.name.removeprefix("sm_")) if self.vendor == "NVIDIA" else None

    @property
    def shared_bytes(self) -> int | None:
        """The bytes of shared memory that one block may hold. None if there is no limit.

        They are the bytes of a multiprocessor, without those that the system keeps for the block.
        """
        there = self.multiprocessor.shared_bytes
        return None if there is None else there - self.multiprocessor.reserved_bytes

    @property
    def rates(self) -> Rates:
        """The rates that the cost model divides by: those of `rates_from`, or the row's own.

        Raise ValueError if they are not known.
        """
        source = ARCHITECTURES[self.rates_from] if self.rates_from else self
        if source.products is None or source.bandwidth is None:
            raise ValueError(f"the rates of {source.name} are not known")
        return Rates(source.products, source.bandwidth)


# The sources of the numbers below.
# Multiprocessors: CUDA C++ Programming Guide, technical specifications per compute capability.
# Products, GPUs and clocks: NVIDIA's A100, GA102, Ada, H100, Blackwell and RTX Blackwell architecture papers.
# Everything of gfx942: AMD's MI300X data sheet.
# Memory: the bandwidth in the data sheet, divided by multiprocessors and clock. In TB/s: A100 2.0, RTX 6000 Ada 1.0,
# B200 8.0, RTX PRO 6000 1.8, MI300X 5.3. For sm_90 it is between the H100's 3.4 and the H200's 4.8.
# L2: 5,120 bytes per cycle for the A100, by its paper. Fitted for an H200. An estimate for a B200, and half of it for
# GPUs with GDDR. 17 TB/s for the MI300X, by its paper.
# Accumulators: 64 where operands and accumulators share the 255 registers of a thread. Also in wgrad on sm_100 and
# sm_103, where sums on their way from tensor memory meet those of the bias.
_ROWS = (
    Architecture(
        "sm_80",
        Multiprocessor(warps=64, blocks=32, shared_bytes=164 * KIB),
        products=Products(half=1024, tf32=512, float32=64),
        bandwidth=Bandwidth(l2=47, memory=13),
        data_sheet=DataSheet("A100 SXM", multiprocessors=108, clock_ghz=1.41),
    ),
    # With its own products and the A100's bandwidth, the model would choose other tiles for 114 of the 450 problems of
    # `bench lowering --layers`. Until such a GPU is measured, the model takes all rates of the A100.
    Architecture(
        "sm_86",
        Multiprocessor(warps=48, blocks=16, shared_bytes=100 * KIB),
        products=Products(half=512, tf32=256, float32=128),
        rates_from="sm_80",
        data_sheet=DataSheet("RTX A6000", multiprocessors=84, clock_ghz=1.80),
    ),
    Architecture("sm_87", Multiprocessor(warps=48, blocks=16, shared_bytes=164 * KIB), rates_from="sm_80"),
    Architecture(
        "sm_89",
        Multiprocessor(warps=48, blocks=24, shared_bytes=100 * KIB),
        products=Products(half=512, tf32=256, float32=128),
        bandwidth=Bandwidth(l2=20, memory=2.7),
        data_sheet=DataSheet("RTX 6000 Ada", multiprocessors=142, clock_ghz=2.505),
    ),
    Architecture(
        "sm_90",
        Multiprocessor(warps=64, blocks=32, shared_bytes=228 * KIB),
        accumulators=128,
        wgrad_accumulators=128,
        tma=True,
        products_from_shared=True,
        products=Products(half=2048, tf32=1024, float32=128),
        bandwidth=Bandwidth(l2=50, memory=16),
        data_sheet=DataSheet("H100 SXM", multiprocessors=132, clock_ghz=1.83),
    ),
    Architecture(
        "sm_100",
        Multiprocessor(warps=64, blocks=32, shared_bytes=228 * KIB),
        accumulators=128,
        tma=True,
        products_from_shared=True,
        halves_share=False,
        products=Products(half=4096, tf32=2048, float32=128),
        bandwidth=Bandwidth(l2=39, memory=29),
        data_sheet=DataSheet("B200", multiprocessors=148, clock_ghz=1.85),
    ),
    Architecture(
        "sm_103",
        Multiprocessor(warps=64, blocks=32, shared_bytes=228 * KIB),
        accumulators=128,
        tma=True,
        products_from_shared=True,
        halves_share=False,
        rates_from="sm_100",
    ),
    Architecture(
        "sm_120",
        Multiprocessor(warps=48, blocks=24, shared_bytes=100 * KIB),
        tma=True,
        products=Products(half=512, tf32=256, float32=128),
        bandwidth=Bandwidth(l2=20, memory=3.6),
        data_sheet=DataSheet("RTX PRO 6000 Blackwell", multiprocessors=188, clock_ghz=2.617),
    ),
    # A warp has twice as many lanes, so a lane holds half as many accumulators of the same tile.
    Architecture(
        "gfx942",
        Multiprocessor(32, 32, 64 * KIB, reserved_bytes=0, registers=131_072, register_granule=512, lanes=64),
        vendor="AMD",
        accumulators=32,
        wgrad_accumulators=32,
        stages=2,
        products=Products(half=1024, tf32=512, float32=128),
        bandwidth=Bandwidth(l2=27, memory=8),
        data_sheet=DataSheet("MI300X", multiprocessors=304, clock_ghz=2.1),
    ),
)
ARCHITECTURES = {row.name: row for row in _ROWS}


def architecture(name: str) -> Architecture:
    """Return the row of that name, or a guess for an architecture without a row.

    A name that begins with "sm_" is one of NVIDIA's. Without a row, it gets the row of the highest capability below its
    own, or sm_80 if there is none. Its shared memory, accumulators and `halves_share` are those of sm_86, whose limits
    are the lowest of NVIDIA's rows. Any other name without a row gets the row of gfx942. A guess has no data sheet, and
    neither host descriptors nor dependent launches.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if not name.startswith("sm_"):
        return replace(ARCHITECTURES["gfx942"], name=name, data_sheet=None)
    capability = int(name.removeprefix("sm_"))
    known = {row.capability: row for row in ARCHITECTURES.values() if row.capability is not None}
    newest = known[max((each for each in known if each < capability), default=LEAST_CAPABILITY)]
    least = ARCHITECTURES["sm_86"]
    return replace(
        newest,
        name=name,
        multiprocessor=newest.multiprocessor._replace(shared_bytes=least.multiprocessor.shared_bytes),
        accumulators=least.accumulators,
        wgrad_accumulators=least.wgrad_accumulators,
        halves_share=least.halves_share,
        host_descriptors=False,
        dependent_launch=False,
        data_sheet=None,
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the choice of a tile needs to know of a GPU: its architecture and the number of its multiprocessors.

    `name` is what its maker calls it. Measured tiles are found by the name, or are those of GPUs like this one. A GPU
    without a name has none (`tritonconv.tiling.measured`).
    """

    architecture: Architecture
    multiprocessors: int
    name: str = ""

    @classmethod
    def of(cls, arch: str, multiprocessors: int, name: str = "") -> "Gpu":
        """Return a GPU whose architecture is `architecture(arch)`. `arch` is a name like sm_90."""
        return cls(architecture(arch), multiprocessors, name)

    def alike(self, other: "Gpu") -> bool:
        """Whether results of one GPU hold for the other: they have the same architecture, and like numbers of
        multiprocessors, which differ by at most a tenth.
        """
        few, many = sorted((self.multiprocessors, other.multiprocessors))
        return self.architecture.name == other.architecture.name and 10 * (many - few) <= many

    def switched(self, **switches: bool) -> "Gpu":
        """Return this GPU with other switches of its architecture: `host_descriptors` or `dependent_launch`."""
        return replace(self, architecture=replace(self.architecture, **switches))  # type: ignore[arg-type]


# Triton's interpreter counts as an H100 without limits of memory and registers.
INTERPRETER = Gpu(
    replace(
        ARCHITECTURES["sm_90"],
        name="interpreter",
        vendor=None,
        multiprocessor=ARCHITECTURES["sm_90"].multiprocessor._replace(shared_bytes=None),
        accumulators=None,
        wgrad_accumulators=None,
        host_descriptors=False,
        dependent_launch=False,
        data_sheet=None,
    ),
    multiprocessors=1,
)
