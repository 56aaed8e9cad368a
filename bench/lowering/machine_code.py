"""The machine code of a kernel, compiled without a GPU: what it takes, and what one round of its main loop does.

All figures here are counted in the code. What follows from a GPU's data sheet is in `rows`.
"""

from typing import NamedTuple

from triton.backends.compiler import GPUTarget

from bench.lowering import assembly
from bench.lowering.offline import Job, compiled, launch_of


class Loop(NamedTuple):
    """How many instructions one round of the main loop has, in each warp. All are 0 without a main loop.

    `mma` of them multiply on tensor cores, and `fmas` multiply and add elsewhere. Together they form `products`.
    """

    instructions: int = 0
    mma: int = 0
    fmas: int = 0
    products: int = 0

    @classmethod
    def of(cls, listing: assembly.Listing) -> "Loop":
        """Return the counts of the listing's main loop."""
        loop = listing.main_loop()
        mma, fmas = (assembly.count(loop, kind) for kind in (assembly.MATRIX, assembly.FUSED_MULTIPLY_ADD))
        return cls(len(loop), mma, fmas, assembly.products(loop))


class Code(NamedTuple):
    """What a compiled kernel takes, and the opcodes that multiply (`mma`) and that copy (`copy`).

    The fields have the names that they have in a row. `warps` are those of a program.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    mma: str | None
    left_in_registers: int
    copy: str | None
    loop: Loop


def target_of(job: Job) -> GPUTarget:
    """Return what Triton calls the GPU that the job compiles for."""
    architecture = job.architecture
    lanes = architecture.multiprocessor.lanes
    if architecture.vendor == "NVIDIA":
        return GPUTarget("cuda", architecture.capability, lanes)
    return GPUTarget("hip", job.arch, lanes)


def code_of(job: Job) -> Code:
    """Compile the job's kernel, and return what is found in its machine code."""
    launch = launch_of(job)
    binary = compiled(launch.kernel, launch.arguments, target_of(job))
    if job.architecture.vendor == "NVIDIA":
        listing, usage = assembly.read_cubin(binary.asm["cubin"])
    else:
        listing, usage = assembly.read_amdgcn(binary.asm["amdgcn"])
    return Code(
        registers=usage.registers,
        spill_bytes=assembly.spill_bytes(listing, usage),
        shared_bytes=binary.metadata.shared,
        warps=binary.metadata.num_warps,
        mma=", ".join(listing.kinds(assembly.MATRIX)) or None,
        left_in_registers=listing.left_in_registers(),
        copy=", ".join(listing.kinds(assembly.COPY)) or None,
        loop=Loop.of(listing),
    )
