"""What the architectures are capable of, by their makers' data sheets: for bounds, never for results.

Sources: NVIDIA's A100, GA102, Ada, H100, Blackwell and RTX Blackwell architecture papers, CUDA C++ Programming Guide
(technical specifications per compute capability), AMD's MI300X data sheet. Products per cycle are those that are summed
in float32, without sparsity.
"""

from dataclasses import dataclass
from math import ceil

KIB = 1024


@dataclass(frozen=True)
class Chip:
    """One GPU for each architecture. Rates are those of one multiprocessor and cycle."""

    name: str
    arch: str
    multiprocessors: int
    clock_ghz: float
    half_products: int  # float16 and bfloat16, on tensor cores
    tf32_products: int
    float32_products: int  # outside the tensor cores
    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65_536
    lanes: int = 32  # threads of a warp
    register_granule: int = 256  # in which registers are given to a warp
    shared_reserve: int = KIB  # shared memory that the system keeps for every block
    issues: int = 4  # instructions of one warp each

    @property
    def capability(self) -> int:
        """As `tritonconv.gpu.Gpu` counts: 90 for sm_90, 0 for AMD."""
        return int(self.arch.removeprefix("sm_")) if self.arch.startswith("sm_") else 0

    def products(self, dtype: str) -> int:
        return {"tf32": self.tf32_products, "float32": self.float32_products}.get(dtype, self.half_products)

    def occupancy(self, registers: int, num_warps: int, shared_bytes: int) -> float:
        """The share of a multiprocessor's warps that blocks of such a kernel can fill."""
        of_a_warp = ceil(max(registers, 1) * self.lanes / self.register_granule) * self.register_granule
        blocks = min(
            self.blocks,
            self.warps // num_warps,
            self.registers // of_a_warp // num_warps,
            self.shared_bytes // max(1, shared_bytes + self.shared_reserve),
        )
        return blocks * num_warps / self.warps

    def bound_tflops(self, products: int, cycles: float) -> float:
        """TFLOP/s if every multiprocessor does `products`, of two operations each, in `cycles` and never waits."""
        return 2 * products * self.multiprocessors * self.clock_ghz / cycles / 1e3


CHIPS = {
    chip.arch: chip
    for chip in (
        Chip("A100 SXM", "sm_80", 108, 1.41, 1024, 512, 64, 64, 32, 164 * KIB),
        Chip("RTX A6000", "sm_86", 84, 1.80, 512, 256, 128, 48, 16, 100 * KIB),
        Chip("RTX 6000 Ada", "sm_89", 142, 2.505, 512, 256, 128, 48, 24, 100 * KIB),
        Chip("H100 SXM", "sm_90", 132, 1.83, 2048, 1024, 128, 64, 32, 228 * KIB),
        Chip("B200", "sm_100", 148, 1.85, 4096, 2048, 128, 64, 32, 228 * KIB),
        Chip("RTX PRO 6000 Blackwell", "sm_120", 188, 2.617, 512, 256, 128, 48, 24, 100 * KIB),
        Chip("MI300X", "gfx942", 304, 2.1, 1024, 512, 128, 32, 32, 64 * KIB, 131_072, 64, 512, 0),
    )
}
