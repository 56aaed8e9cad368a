"""The rows of `bench lowering`: each kernel's resources and instructions, and the bound that follows from them."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import triton
from triton import knobs

from bench import results
from bench.layers import Layer
from bench.lowering import kept
from bench.lowering.bounds import bound_tflops, occupancy, products_of
from bench.lowering.machine_code import Code, Loop, code_of
from bench.lowering.offline import Job, gpu_of_data_sheet, launch_of, picked_jobs
from bench.lowering.table import KEYS, Row
from bench.run.contenders import DTYPES
from tritonconv.gpu import ARCHITECTURES, ISSUES
from tritonconv.tiling.fits import at_most
from tritonconv.tools.parallel_compile import cpus


class Failure(str):
    """A line that says which kernel did not compile or does not fit, and why."""


def name_of(job: Job) -> str:
    """Return the words that name a job in a Failure."""
    return f"{job.kernel} {job.tile} {job.dtype} {job.arch} x{job.memory.x} y{job.memory.y}"


def code_or_fail(job: Job, key: str | None = None) -> Code | Failure:
    """Return what is found in the job's machine code, or a Failure if `code_of` raises an exception.

    It is kept for `key`, unless that is None.
    """
    try:
        code = code_of(job)
    except Exception as error:
        return Failure(f"{name_of(job)}: {results.in_short(error)}")
    if key is not None:
        kept.write(key, code)
    return code


def key_or_none(job: Job) -> str | None:
    """Return the job's key in `kept`, or None if its kernel can not be prepared. `code_or_fail` then says why."""
    try:
        return kept.key_of(job)
    except Exception:
        return None


def row_of(job: Job, code: Code) -> Row:
    """Return the row of a job: what is found in its machine code, and the bounds that follow from that.

    Only the row of a job with a geometry has that.
    """
    architecture, tile = job.architecture, job.tile
    size = launch_of(job).arguments["BLOCK"] if tile is None else tile
    promised = (
        None
        if tile is None
        else tile.shared_bytes(job.operator, DTYPES[job.dtype].itemsize, gpu_of_data_sheet(job.arch))
    )
    return {
        "kernel": job.kernel,
        "tile": str(size),
        "dtype": job.dtype,
        "arch": job.arch,
        "x_vector": job.memory.x,
        "y_vector": job.memory.y,
        "host_descriptors": job.host_descriptors,
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "shared_bytes": code.shared_bytes,
        "shared_bytes_promised": promised,
        "occupancy": round(occupancy(architecture, code.registers, code.warps, code.shared_bytes), 3),
        "mma": code.mma,
        "left_in_registers": code.left_in_registers,
        "copy": code.copy,
        **main_loop(code.loop, job),
        "triton": triton.__version__,
    } | ({} if job.geometry is None else {"geometry": str(job.geometry)})


def main_loop(loop: Loop, job: Job) -> Row:
    """Return the fields of a row that describe the main loop: the instructions of one step, and the bound from them.

    If its tensor cores never wait, a multiprocessor forms a step's products in `step / products_of(...)` cycles. It can
    issue ISSUES instructions in each of these cycles. If a step has more instructions, issuing them is the bound.

    FMAs outside the tensor cores are themselves instructions. If a loop multiplies by FMAs, the row has their share of
    its instructions, and no `instructions_per_mma_cycle`.

    On sm_100 and AMD, opcodes do not say how much they multiply. So one round of the loop counts as one step there.

    A field without a value is None. AMD's rows have no bound. All fields are None without a tile or a main loop.
    """
    tile, architecture = job.tile, job.architecture
    found = dict.fromkeys(("instructions_per_step", "instructions_per_mma_cycle", "ffma_share", "bound_tflops"))
    if tile is None or not loop.instructions:
        return found
    step = tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K
    instructions = loop.instructions / max(1, round(loop.products * tile.num_warps / step))
    found["instructions_per_step"] = round(instructions)
    matrix = loop.mma > 0
    if not matrix:
        found["ffma_share"] = round(loop.fmas / loop.instructions, 3)
    if architecture.vendor == "NVIDIA":  # AMD issues instructions by other rules
        multiply = step / products_of(architecture, job.dtype if matrix else "float32")
        issue = instructions * tile.num_warps / ISSUES
        if matrix:
            found["instructions_per_mma_cycle"] = round(instructions * tile.num_warps / multiply, 2)
        found["bound_tflops"] = round(bound_tflops(architecture, step, max(multiply, issue)))
    return found


def lower_all(
    jobs: Sequence[Job], layers: Sequence[Layer], processes: int | None = None, fresh: bool = False
) -> Iterator[tuple[Row | Failure, bool]]:
    """Yield the row of each job, or its Failure, in the order of `jobs`, and whether it was compiled now.

    What earlier calls kept is not compiled again, unless `fresh`. Then Triton's own cache is not used either. Parallel
    processes compile the other kernels: `processes`, by default one for each CPU.

    A row's `layers` are the names of those layers for which `pick` chooses this tile with these vector lengths.
    `default` is true if there is at least one such layer.
    """
    chosen = chosen_by(jobs, layers)
    keys = {job: key_or_none(job) for job in jobs}
    found = {job: kept.read(key) for job, key in keys.items() if key and not fresh}
    known = {job: code for job, code in found.items() if code is not None}
    missing = [job for job in jobs if job not in known]
    # The processes start with the first kernel that is submitted, so none starts if all are known.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or cpus(), spawn, always_compile if fresh else None) as pool:
        compiled = pool.map(code_or_fail, missing, [keys[job] for job in missing])
        for job in jobs:
            code: Code | Failure = known[job] if job in known else next(compiled)
            names = {"default": job in chosen, "layers": chosen.get(job, [])}
            yield code if isinstance(code, Failure) else row_of(job, code) | names, job not in known


def always_compile() -> None:
    """Make Triton compile each kernel in this process, though its own cache may hold it."""
    knobs.compilation.always_compile = True


def chosen_by(jobs: Sequence[Job], layers: Sequence[Layer]) -> dict[Job, list[str]]:
    """Return the jobs that `layers` launch, with the names of their layers, for each architecture and dtype in `jobs`.

    A job with a geometry of its own has the layers with that geometry.
    """
    chosen: dict[Job, list[str]] = {}
    kinds = dict.fromkeys((job.dtype, job.arch, job.host_descriptors, job.geometry) for job in jobs)
    for dtype, arch, host_descriptors, geometry in kinds:
        those = [layer for layer in layers if geometry in (None, layer.geometry)]
        picked = picked_jobs(those, dtype, arch, host_descriptors)
        chosen |= {replace(job, geometry=geometry): names for job, names in picked.items()}
    return chosen


def unfit(row: Row) -> str | None:
    """Return a line that says that a compiled kernel takes too much shared memory, and how much; None if it fits.

    A kernel may take no more than the GPU has, and no more than its tile promises (`Tile.shared_bytes`).
    """
    promised, most = row["shared_bytes_promised"], ARCHITECTURES[row["arch"]].shared_bytes
    if not (at_most(row["shared_bytes"], promised) and at_most(row["shared_bytes"], most)):
        what = " ".join(str(row[name]) for name in KEYS)
        limits = f"its tile promises at most {promised}, the GPU has {most}"
        return f"{what}: takes {row['shared_bytes']} bytes of shared memory; {limits}"
    return None
