"""`Tile`, the block sizes of a kernel, and `Operands`, what the choice of a tile needs to know of a call's tensors."""

from dataclasses import dataclass

from tritonconv.geometry import ConvGeometry, Operator, ceildiv
from tritonconv.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Operands:
    """What the choice of a tile needs to know of a call's tensors.

    `itemsize` is the size of an element in bytes. A load takes `vector` adjacent elements. A store takes 16 bytes if
    `whole_stores`, else one element. `exact` says that float32 must not be rounded to TF32, which keeps it off the
    tensor cores. `varies` has the letters that the weight varies over. `tma_possible` says that TMA can copy blocks of
    pixels of these tensors, on a GPU that has TMA.
    """

    itemsize: int
    vector: int
    whole_stores: bool = True
    exact: bool = False
    varies: str = ""
    tma_possible: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """The block sizes and launch options of a kernel.

    A program computes a block of BLOCK_M x BLOCK_N results. Each step of its loop takes BLOCK_K products for each
    result. `num_warps` and `num_stages` (of software pipelining) are Triton's options. Programs walk down GROUP_M
    blocks of rows before they go on to the next column, so that neighbours share operands in the L2 cache. SPLIT_K
    programs share the reduction of one block of results (split-K); only wgrad splits.

    A TMA kernel copies pixels in blocks of BLOCK_B images x BLOCK_H rows x BLOCK_W columns. This block has BLOCK_M
    pixels, or BLOCK_K in wgrad. All three are 0 in a tile for kernels that gather pixels one by one.
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
        """Whether the tile is for a TMA kernel, which copies pixels in whole blocks."""
        return self.BLOCK_B > 0

    def __str__(self) -> str:
        """Return the tile in short: 128x256x64w8s3:2.8.8 or 128x256x64w8s3/4.

        First come BLOCK_M, BLOCK_N, BLOCK_K, the warps and the pipeline stages. With TMA, the images, rows and columns
        of a block of pixels follow a colon. A SPLIT_K above 1 follows a slash.
        """
        blocks = f"{self.BLOCK_M}x{self.BLOCK_N}x{self.BLOCK_K}w{self.num_warps}s{self.num_stages}"
        pixels = f":{self.BLOCK_B}.{self.BLOCK_H}.{self.BLOCK_W}" if self.uses_tma else ""
        return f"{blocks}{pixels}" if self.SPLIT_K == 1 else f"{blocks}{pixels}/{self.SPLIT_K}"

    def columns(self, geometry: ConvGeometry, operator: Operator) -> int:
        """Return how many blocks of BLOCK_N cover the columns of the matrix product.

        In wgrad with TMA a block has channels of one tap only, so the blocks of each tap are counted separately.
        """
        if operator == "wgrad" and self.uses_tma:
            return geometry.R * geometry.S * ceildiv(geometry.C // geometry.G, self.BLOCK_N)
        return ceildiv(geometry.gemm(operator).N, self.BLOCK_N)

    def blocks(self, geometry: ConvGeometry, operator: Operator) -> int:
        """Return how many blocks of results a launch computes, in all its matrix products.

        wgrad computes each block in SPLIT_K parts, which count once here.
        """
        M, _, _, G = geometry.launched(operator)
        pixels = operator != "wgrad" and self.uses_tma
        rows = self.pixel_blocks(geometry, operator) if pixels else ceildiv(M, self.BLOCK_M)
        return rows * self.columns(geometry, operator) * G

    def pixel_blocks(self, geometry: ConvGeometry, operator: Operator) -> int:
        """Return how many blocks of BLOCK_B x BLOCK_H x BLOCK_W cover the pixels that `ConvGeometry.pixels` returns."""
        images, rows, columns = geometry.pixels(operator)
        return ceildiv(images, self.BLOCK_B) * ceildiv(rows, self.BLOCK_H) * ceildiv(columns, self.BLOCK_W)

    def tlb_slowdown(self, geometry: ConvGeometry, operator: Operator) -> float:
        """Return the factor by which loads of wgrad are slower if a TMA block is a line of images, else 1.

        The pixels of this block lie one image apart. If they span more than NEAR bytes, address translation (the TLB)
        slows down. The factor is the square root of span / NEAR, but at least 1. An element counts as 2 bytes.
        """
        line = operator == "wgrad" and self.uses_tma and self.BLOCK_B > 1 and self.BLOCK_B == self.BLOCK_K
        apart = 2 * self.BLOCK_B * geometry.C * geometry.H * geometry.W if line else 0
        return float(max(1.0, (apart / NEAR) ** 0.5))

    def steps(self, geometry: ConvGeometry, operator: Operator) -> int:
        """Return how many steps of the loop one block of results takes.

        For dgrad: the steps of one block of each phase of the stride, added up. For wgrad: the steps of all SPLIT_K
        parts, added up.
        """
        if operator == "wgrad":
            if self.uses_tma:
                return self.pixel_blocks(geometry, operator)
            return ceildiv(geometry.gemm(operator).K, self.BLOCK_K)
        channels = (geometry.F if operator == "dgrad" else geometry.C) // geometry.G
        return ceildiv(channels, self.BLOCK_K) * geometry.R * geometry.S

    @property
    def halves(self) -> bool:
        """Whether fprop and dgrad with TMA copy a block of results out in two halves of its channels.

        They do so where each warp has channels of both halves: where BLOCK_N / num_warps is at least 32. The halves are
        copied one after the other. They share one buffer in shared memory, of half the size, only where the
        architecture has `halves_share`.
        """
        return self.BLOCK_N // self.num_warps >= 32

    def programs(self, geometry: ConvGeometry, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """Return how many programs are started.

        fprop and dgrad with TMA are persistent kernels: each program computes one block after another. So they start
        at most as many programs as run at the same time. Without TMA they start one program for each block. In both
        families, wgrad starts SPLIT_K programs for each block.
        """
        blocks = self.blocks(geometry, operator)
        if operator == "wgrad":
            return blocks * self.SPLIT_K
        return min(blocks, gpu.multiprocessors * self.occupancy(operator, itemsize, gpu)) if self.uses_tma else blocks

    def occupancy(self, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """Return the expected occupancy: how many programs run on one multiprocessor at the same time.

        Registers and shared memory limit it. It is at least 1.
        """
        there, shared_bytes = gpu.architecture.multiprocessor, gpu.architecture.shared_bytes
        threads = there.lanes * self.num_warps
        accumulators = self.BLOCK_M * self.BLOCK_N // threads
        found = there.registers // (threads * (accumulators + BESIDE_ACCUMULATORS))
        if shared_bytes is not None:
            found = min(found, shared_bytes // self.shared_bytes(operator, itemsize, gpu))
        return max(1, found)

    def shared_bytes(self, operator: Operator, itemsize: int, gpu: Gpu) -> int:
        """Return an upper bound of the bytes of shared memory that a program takes.

        Shared memory first holds the operands of num_stages steps and later the results that are being stored, so the
        larger of both counts. In the persistent TMA kernels both count together, because the next block's operands are
        loaded while the results are stored.
        """
        operands = self.num_stages * (self.BLOCK_M + self.BLOCK_N) * self.BLOCK_K * itemsize
        if operator == "wgrad":
            # wgrad stores float32, and each warp has a column of the bias's sum.
            return max(operands, self.BLOCK_M * self.BLOCK_N * 4) + self.num_warps * self.BLOCK_M * 4 + BESIDE_OPERANDS
        result = self.BLOCK_M * self.BLOCK_N * itemsize
        if self.uses_tma:
            result //= 2 if self.halves and gpu.architecture.halves_share else 1
            return operands + result + BESIDE_OPERANDS + BESIDE_RESULT
        return max(operands, result) + BESIDE_OPERANDS


# Bytes for row masks and barriers. The tests compile every tile and check that this is enough.
BESIDE_OPERANDS = 1_024
BESIDE_RESULT = 256
# About how many registers a thread needs beside its accumulators.
BESIDE_ACCUMULATORS = 40
# Bytes within which addresses are translated fast. Fitted on an H200 to wgrad of VGG's first layers, with blocks that
# are lines of images.
NEAR = 64 << 20
