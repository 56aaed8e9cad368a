"""The rows of `bench lowering`: each kernel's resources and instructions, and the bound that follows from them."""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import triton
from triton.backends.compiler import GPUTarget

from bench import results
from bench.lowering import assembly
from bench.lowering.bounds import bound_tflops, occupancy, products_of
from bench.lowering.offline import Job, compiled, for_memory, gpu_of_data_sheet
from bench.lowering.table import Row, title
from bench.run.contenders import DTYPES
from tritonconv.gpu import ARCHITECTURES, ISSUES
from tritonconv.tiling.fits import at_most


class Failure(str):
    """A line that says which kernel did not compile or does not fit, and why."""


def lower_or_fail(job: Job) -> Row | Failure:
    """Return the row of a job, or a Failure if `lower` raises an exception."""
    try:
        return lower(job)
    except Exception as error:
        memory = f"x{job.memory.x} y{job.memory.y}"
        return Failure(f"{job.kernel} {job.tile} {job.dtype} {job.arch} {memory}: {results.in_short(error)}")


def lower(job: Job) -> Row:
    """Compile a job's kernel, and return its row: resources, instructions, and the bound that follows from them."""
    kernel, _, arguments = for_memory(job)
    architecture, tile = job.architecture, job.tile
    lanes = architecture.multiprocessor.lanes
    if architecture.vendor == "NVIDIA":
        binary = compiled(kernel, arguments, GPUTarget("cuda", architecture.capability, lanes))
        listing, usage = assembly.read_cubin(binary.asm["cubin"])
    else:
        binary = compiled(kernel, arguments, GPUTarget("hip", job.arch, lanes))
        listing, usage = assembly.read_amdgcn(binary.asm["amdgcn"])
    occupied = occupancy(architecture, usage.registers, binary.metadata.num_warps, binary.metadata.shared)
    promised = (
        None
        if tile is None
        else tile.shared_bytes(job.operator, DTYPES[job.dtype].itemsize, gpu_of_data_sheet(job.arch))
    )
    return {
        "kernel": job.kernel,
        "tile": str(arguments["BLOCK"] if tile is None else tile),
        "dtype": job.dtype,
        "arch": job.arch,
        "x_vector": job.memory.x,
        "y_vector": job.memory.y,
        "host_descriptors": job.host_descriptors,
        "registers": usage.registers,
        "spill_bytes": assembly.spill_bytes(listing, usage),
        "shared_bytes": binary.metadata.shared,
        "shared_bytes_promised": promised,
        "occupancy": round(occupied, 3),
        "mma": ", ".join(listing.kinds(assembly.MATRIX)) or None,
        "left_in_registers": listing.left_in_registers(),
        "copy": ", ".join(listing.kinds(assembly.COPY)) or None,
        **main_loop(listing, job),
        "triton": triton.__version__,
    }


def main_loop(listing: assembly.Listing, job: Job) -> Row:
    """Return the fields of a row that describe the main loop: the instructions of one step, and the bound from them.

    If its tensor cores never wait, a multiprocessor forms a step's products in `step / products_of(...)` cycles. It can
    issue ISSUES instructions in each of these cycles. If a step has more instructions, issuing them is the bound.

    FMAs outside the tensor cores are themselves instructions. If a loop multiplies by FMAs, the row has their share of
    its instructions, and no `instructions_per_mma_cycle`.

    On sm_100 and AMD, opcodes do not say how much they multiply. So one round of the loop counts as one step there.

    A field without a value is None. AMD's rows have no bound. All fields are None without a tile or a main loop.
    """
    loop, tile, architecture = listing.main_loop(), job.tile, job.architecture
    found = dict.fromkeys(("instructions_per_step", "instructions_per_mma_cycle", "ffma_share", "bound_tflops"))
    if tile is None or not loop:
        return found
    step = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K
    instructions = len(loop) / max(1, round(assembly.products(loop) * tile.num_warps / step))
    found["instructions_per_step"] = round(instructions)
    matrix = assembly.count(loop, assembly.MATRIX) > 0
    if not matrix:
        found["ffma_share"] = round(assembly.count(loop, assembly.FUSED_MULTIPLY_ADD) / len(loop), 3)
    if architecture.vendor == "NVIDIA":  # AMD issues instructions by other rules
        multiply = step / products_of(architecture, job.dtype if matrix else "float32")
        issue = instructions * tile.num_warps / ISSUES
        if matrix:
            found["instructions_per_mma_cycle"] = round(instructions * tile.num_warps / multiply, 2)
        found["bound_tflops"] = round(bound_tflops(architecture, step, max(multiply, issue)))
    return found


def lower_all(
    jobs: Sequence[Job], chosen: Mapping[Job, list[str]], processes: int | None = None
) -> Iterator[Row | Failure]:
    """Yield the row of each job, or its Failure, in the order of `jobs`. Parallel processes compile the kernels.

    A row's `layers` are the names that `chosen` has for its job: of those layers for which `pick` chooses this tile
    with these vector lengths. `default` is true if there is one. `processes` is by default the number of CPUs.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), context) as pool:
        for job, row in zip(jobs, pool.map(lower_or_fail, jobs), strict=True):
            yield row if isinstance(row, Failure) else row | {"default": job in chosen, "layers": chosen.get(job, [])}


def unfit(row: Row) -> str | None:
    """Return a line that says that a compiled kernel takes too much shared memory, and how much; None if it fits.

    A kernel may take no more than the GPU has, and no more than its tile promises (`Tile.shared_bytes`).
    """
    promised, most = row["shared_bytes_promised"], ARCHITECTURES[row["arch"]].shared_bytes
    if not (at_most(row["shared_bytes"], promised) and at_most(row["shared_bytes"], most)):
        limits = f"its tile promises at most {promised}, the GPU has {most}"
        return f"{title(row)}: takes {row['shared_bytes']} bytes of shared memory; {limits}"
    return None
