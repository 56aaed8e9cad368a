"""What a tile is, and what its choice depends on beside the GPU: the operands."""

from dataclasses import dataclass

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Operands:
    """What choosing a tile needs to know of the operands.

    `itemsize` in bytes; loads take `vector` adjacent elements; stores take 16 bytes if `whole_stores`, else one
    element; `exact` keeps float32 off the tensor cores; `varies` has the letters that the weight varies over; `blocks`
    says that hardware can copy whole blocks of pixels, if there is such hardware.
    """

    itemsize: int
    vector: int
    whole_stores: bool = True
    exact: bool = False
    varies: str = ""
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """One launch's block sizes: BLOCK_M x BLOCK_N results at a time, BLOCK_K products per step and result.

    SPLIT_K programs share the steps of one block of results; only wgrad does that. A tile whose pixels are copied in
    whole blocks, of BLOCK_B images, BLOCK_H rows and BLOCK_W columns, has as many in BLOCK_M, or for wgrad in BLOCK_K.
    Of one that gathers its pixels one by one these three are 0.
    """

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    GROUP_M: int = 8
    SPLIT_K: int = 1
    BLOCK_B: int = 0
    BLOCK_H: int = 0
    BLOCK_W: int = 0

    @property
    def uses_tma(self) -> bool:
        """Whether pixels are copied in whole blocks."""
        return self.BLOCK_B > 0

    def __str__(self) -> str:
        """As 128x256x64w8s3: the blocks, warps and stages; then images, rows and columns of a block of pixels, as
        :2.8.8, if there are such; and /4 if the reduction is split into 4 parts.
        """
        blocks = f"{self.BLOCK_M}x{self.BLOCK_N}x{self.BLOCK_K}w{self.num_warps}s{self.num_stages}"
        pixels = f":{self.BLOCK_B}.{self.BLOCK_H}.{self.BLOCK_W}" if self.uses_tma else ""
        return f"{blocks}{pixels}" if self.SPLIT_K == 1 else f"{blocks}{pixels}/{self.SPLIT_K}"

    def columns(self, geometry: ConvGeometry, operator: Operator) -> int:
        """How many blocks lie side by side. Of a tap's channels wgrad has whole ones, if it copies blocks."""
        if operator == "wgrad" and self.uses_tma:
            return geometry.R * geometry.S * ceildiv(geometry.C // geometry.G, self.BLOCK_N)
        return ceildiv(geometry.gemm(operator).N, self.BLOCK_N)

    def blocks(self, geometry: ConvGeometry, operator: Operator) -> int:
        """How many blocks the results make, each of which wgrad sums up in SPLIT_K parts."""
        M, _, _, G = geometry.launched(operator)
        pixels = operator != "wgrad" and self.uses_tma
        rows = self.pixel_blocks(geometry, operator) if pixels else ceildiv(M, self.BLOCK_M)
        return rows * self.columns(geometry, operator) * G

    def pixel_blocks(self, geometry: ConvGeometry, operator: Operator) -> int:
        """How many blocks of BLOCK_B x BLOCK_H x BLOCK_W cover the pixels that a product runs over."""
        images, rows, columns = geometry.pixels(operator)
        return ceildiv(images, self.BLOCK_B) * ceildiv(rows, self.BLOCK_H) * ceildiv(columns, self.BLOCK_W)

    def strain(self, geometry: ConvGeometry, operator: Operator) -> float:
        """How much longer wgrad's copying of a line of images takes than that of a row: what is far apart strains the
        caches of addresses.
        """
        line = operator == "wgrad" and self.uses_tma and self.BLOCK_B > 1 and self.BLOCK_B == self.BLOCK_K
        apart = 2 * self.BLOCK_B * geometry.C * geometry.H * geometry.W if line else 0
        return float(max(1.0, (apart / NEAR) ** 0.5))

    def steps(self, geometry: ConvGeometry, operator: Operator) -> int:
        """How many steps make a result: of dgrad, those of a pixel of each phase together."""
        if operator == "wgrad":
            if self.uses_tma:
                return self.pixel_blocks(geometry, operator)
            return ceildiv(geometry.gemm(operator).K, self.BLOCK_K)
        channels = (geometry.F if operator == "dgrad" else geometry.C) // geometry.G
        return ceildiv(channels, self.BLOCK_K) * geometry.R * geometry.S

    @property
    def halves(self) -> bool:
        """Whether a block of channels is copied out in two halves: where each warp has rows of both."""
        return self.BLOCK_N // self.num_warps >= 32

    def programs(self, geometry: ConvGeometry, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """How many programs are started: one for each block, and of wgrad for each part of its sum; but of those whose
        pixels are copied in blocks, so many as run at the same time, and each computes one block after another.
        """
        blocks = self.blocks(geometry, operator)
        if operator == "wgrad":
            return blocks * self.SPLIT_K
        return min(blocks, gpu.multiprocessors * self.together(operator, itemsize, gpu)) if self.uses_tma else blocks

    def together(self, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """How many programs one multiprocessor is expected to run at the same time."""
        there, shared_bytes = gpu.architecture.multiprocessor, gpu.architecture.shared_bytes
        threads = there.lanes * self.num_warps
        accumulators = self.BLOCK_M * self.BLOCK_N // threads
        found = there.registers // (threads * (accumulators + BESIDE_ACCUMULATORS))
        if shared_bytes is not None:
            found = min(found, shared_bytes // self.shared_bytes(operator, itemsize, gpu))
        return max(1, found)

    def shared_bytes(self, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """Bytes of shared memory, rounded up: the staged operands or the result on its way out, whichever is larger; of
        blocks of pixels both, since the next block's operands come in while the result goes out.
        """
        operands = self.num_stages * (self.BLOCK_M + self.BLOCK_N) * self.BLOCK_K * itemsize
        if operator == "wgrad":
            # Its results are float32, and each warp has a column of the bias's sum.
            return max(operands, self.BLOCK_M * self.BLOCK_N * 4) + self.num_warps * self.BLOCK_M * 4 + BESIDE_OPERANDS
        result = self.BLOCK_M * self.BLOCK_N * itemsize
        if self.uses_tma:
            result //= 2 if self.halves and gpu.architecture.halves_share else 1
            return operands + result + BESIDE_OPERANDS + BESIDE_RESULT
        return max(operands, result) + BESIDE_OPERANDS


# Room for row masks and barriers, in bytes; the tests compile every tile and see that it suffices.
BESIDE_OPERANDS = 1_024
BESIDE_RESULT = 256
# About how many registers a thread has beside its accumulators.
BESIDE_ACCUMULATORS = 40
# Bytes over which addresses are looked up fast: fitted on an H200 to wgrad of VGG's first layers, in lines of images.
NEAR = 64 << 20
