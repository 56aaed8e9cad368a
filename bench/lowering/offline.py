"""Offline compilation: which kernels to compile, for which operands and tiles, and how to compile without a GPU."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.layers import Layer
from bench.lowering.bounds import data_sheet
from bench.run.contenders import DTYPES
from tests.support.oracle import convolution_precision
from tritonconv.bias import shape_beside
from tritonconv.call import Call
from tritonconv.geometry import LEAVES_OUT, OPERATORS, ConvGeometry, Factor, Operator, taken
from tritonconv.gpu import ARCHITECTURES, INTERPRETER, Architecture, Gpu
from tritonconv.launch import planners
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.launch.layout import allocate, paired_vectors
from tritonconv.launch.plan import LAUNCH_OPTIONS, Launch, Plan
from tritonconv.tiling import fits, pick
from tritonconv.tiling.tile import Operands, Tile
from tritonconv.tools.parallel_compile import compile_all, cpus

# Kernels for weights that vary are named after the operator with a suffix, for example `fprop_local`. This maps the
# suffix to the letters that the weight varies over, as in `ConvGeometry.varies`.
VARYING = {"local": "p q", "per_sample": "b", "dynamic": "b p q"}
# The kernels of the three operators; wgrad's kernel that also sums the gradient of the bias; and the kernel that adds
# up wgrad's partial sums. KERNELS also has those for weights that vary.
DENSE = ("fprop", "dgrad", "wgrad", "wgrad_with_bias", "sum_partials")
KERNELS = (*DENSE, *(f"{operator}_{how}" for how in VARYING for operator in OPERATORS))
TRITON_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Memory(NamedTuple):
    """How many adjacent channels of the image x and of the features y are loaded or stored at once."""

    x: int
    y: int


@dataclass(frozen=True)
class Job:
    """One kernel to compile: for these operands, with this tile, for this architecture.

    The kernel that adds up wgrad's partial sums has no tile, and `memory` is (1, 1) in its job. `host_descriptors` says
    that the kernel takes TMA descriptors that the host makes. Otherwise its programs build those that they need.

    With a `geometry`, the kernel is what that problem launches. Otherwise it is what a small problem launches with the
    same tile and vector lengths (`for_memory`).
    """

    kernel: str
    dtype: str
    memory: Memory
    tile: Tile | None
    arch: str
    host_descriptors: bool = False
    geometry: ConvGeometry | None = None

    @property
    def operator(self) -> Operator:
        return operator_of(self.kernel)

    @property
    def varies(self) -> str:
        return varies_of(self.kernel)

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.arch]


def operator_of(kernel: str) -> Operator:
    """Return the operator that launches the kernel. For `sum_partials` this is wgrad."""
    operator = kernel.partition("_")[0]
    return operator if operator in OPERATORS else "wgrad"


def varies_of(kernel: str) -> str:
    """Return the letters that the kernel's weight varies over, as in `ConvGeometry.varies`: "" for a shared weight."""
    return VARYING.get(kernel.partition("_")[2], "")


def memories(operator: Operator, itemsize: int) -> list[Memory]:
    """Return every combination of vector lengths that a launch of the operator can have, the longest loads first."""
    whole, loads = 16 // itemsize, sorted({1, 4 // itemsize, 16 // itemsize}, reverse=True)
    match operator:
        case "fprop":
            return [Memory(load, store) for load in loads for store in (whole, 1)]
        case "dgrad":
            return [Memory(store, load) for load in loads for store in (whole, 1)]
        case "wgrad":
            return list(dict.fromkeys(Memory(*paired_vectors(x, y, whole)) for x in loads for y in loads))


def operands_of(operator: Operator, dtype: str, memory: Memory, varies: str = "") -> Operands:
    """Return the description that `pick` takes of operands in `dtype` with the vector lengths in `memory`.

    The weight varies over the letters `varies`. TMA can copy the operands if loads take 16 bytes and the weight is
    shared.
    """
    itemsize = DTYPES[dtype].itemsize
    loaded, stored = {"fprop": memory, "dgrad": memory[::-1], "wgrad": (min(memory), 16 // itemsize)}[operator]
    blocks = loaded * itemsize == 16 and not varies
    return Operands(itemsize, loaded, stored > 1, exact=dtype == "float32", varies=varies, tma_possible=blocks)


def gpu_of_data_sheet(arch: str) -> Gpu:
    """Return the GPU of the architecture's data sheet. It has no name, so `pick` finds no measured tiles for it."""
    architecture = ARCHITECTURES[arch]
    return Gpu(architecture, data_sheet(architecture).multiprocessors)


def jobs(
    archs: Iterable[str],
    dtypes: Iterable[str],
    kernels: Iterable[str],
    layers: Sequence[Layer],
    everywhere: bool,
    host_descriptors: bool = False,
) -> list[Job]:
    """Return the jobs of `kernels` for each of `archs` and `dtypes`, each job once.

    These are the jobs of all shipped tiles (`shipped_jobs`, which takes `everywhere`), and those that `layers` launch
    (`picked_jobs`). With `host_descriptors`, they are only the kernels that take TMA descriptors that the host makes.
    """
    found: dict[Job, None] = {}
    for arch, dtype in product(archs, dtypes):
        for kernel in kernels:
            shipped = shipped_jobs(kernel, dtype, arch, everywhere)
            if host_descriptors:
                shipped = [replace(job, host_descriptors=True) for job in shipped if job.tile and job.tile.uses_tma]
            found |= dict.fromkeys(shipped)
        picked = picked_jobs(layers, dtype, arch, host_descriptors)
        found |= dict.fromkeys(
            job for job in picked if job.kernel in kernels and job.host_descriptors == host_descriptors
        )
    return list(found)


def shipped_jobs(kernel: str, dtype: str, arch: str, everywhere: bool) -> list[Job]:
    """Return the jobs of a kernel's shipped tiles that fit the GPU of the architecture's data sheet.

    Each tile has one job, with the longest vectors that it ships for. With `everywhere`, it has a job for each
    combination of vector lengths that it ships for. If each sample and location has a weight, only tiles for one image
    have jobs. `sum_partials` has one job, without a tile.
    """
    if kernel == "sum_partials":
        return [adding(dtype, arch)]
    found: dict[tuple[Tile, Memory | None], Job] = {}
    operator, varies = operator_of(kernel), varies_of(kernel)
    for memory in memories(operator, DTYPES[dtype].itemsize):
        operands = operands_of(operator, dtype, memory, varies)
        fitting = fits.available(operator, operands, gpu_of_data_sheet(arch))
        if varies == "b p q":
            fitting = pick.for_images(fitting, small_geometry(varies, memory, operands.itemsize), operator)
        for tile in fitting:
            found.setdefault((tile, memory if everywhere else None), Job(kernel, dtype, memory, tile, arch))
    return list(found.values())


def adding(dtype: str, arch: str) -> Job:
    """Return the job of the kernel that adds up wgrad's partial sums."""
    return Job("sum_partials", dtype, Memory(1, 1), None, arch)


def picked_jobs(layers: Sequence[Layer], dtype: str, arch: str, host_descriptors: bool = False) -> dict[Job, list[str]]:
    """Return the jobs that `layers` launch on the GPU of the data sheet, each with the names of its layers.

    With `host_descriptors`, the host makes TMA descriptors where it can, and otherwise nowhere.

    For a shared weight there is also the job of wgrad that sums the bias. The job that adds up partial sums has those
    layers whose wgrad has partial sums without a bias.
    """
    chosen: dict[Job, list[str]] = {}
    gpu = gpu_of_data_sheet(arch).switched(host_descriptors=host_descriptors)
    for layer in layers:
        for kernel in kernels_for(layer.geometry):
            with_bias = kernel == "wgrad_with_bias"
            plan = plan_for(operator_of(kernel), dtype, layer.geometry, gpu, bias=with_bias)
            chosen.setdefault(of_plan(plan, kernel, dtype, arch), []).append(layer.name)
            if len(plan.launches) > 1 and not with_bias:
                chosen.setdefault(adding(dtype, arch), []).append(layer.name)
    return chosen


def launched_jobs(
    archs: Iterable[str],
    dtypes: Iterable[str],
    kernels: Iterable[str],
    layers: Sequence[Layer],
    host_descriptors: bool = False,
) -> list[Job]:
    """Return the jobs that `layers` launch (`picked_jobs`), of `kernels` and for each of `archs` and `dtypes`.

    With `host_descriptors`, they are only the kernels that take TMA descriptors that the host makes.
    """
    return [
        job
        for arch, dtype in product(archs, dtypes)
        for job in picked_jobs(layers, dtype, arch, host_descriptors)
        if job.kernel in kernels and job.host_descriptors == host_descriptors
    ]


def exact_jobs(layer: Layer, dtype: str, arch: str, host_descriptors: bool = False) -> list[Job]:
    """Return the jobs that compile exactly what `layer` launches on the GPU of the data sheet: for its own geometry."""
    picked = picked_jobs([layer], dtype, arch, host_descriptors)
    return [replace(job, geometry=layer.geometry) for job in picked]


def kernels_for(geometry: ConvGeometry) -> list[str]:
    """Return the names of the kernels that a layer with this geometry launches, without `sum_partials`."""
    return [name for name in KERNELS if varies_of(name) == geometry.varies and name != "sum_partials"]


def of_plan(plan: Plan, kernel: str, dtype: str, arch: str) -> Job:
    """Return the job that compiles the first launch of `plan`, whose kernel is called `kernel`.

    The job keeps the vector lengths, and the tile with SPLIT_K=1. It has neither the addresses nor the sizes of the
    operands. So different plans may give equal jobs.
    """
    given = plan.launches[0].arguments
    memory = Memory(given["VECTOR_X"], given["VECTOR_Y"])
    by_host = any(isinstance(value, HostDescriptor) for value in given.values())
    return Job(kernel, dtype, memory, replace(plan.tile, SPLIT_K=1), arch, by_host)


def call_for(
    operator: Operator, dtype: str, geometry: ConvGeometry, *, bias: bool = False, channels_last: bool = True
) -> Call:
    """Return a call of the operator on tensors without data, on the meta device.

    With `bias`, fprop and dgrad add a bias, and wgrad also computes the gradient of one. Without `channels_last`, the
    operands are contiguous (NCHW), except that a weight that varies always has its channels last.
    """
    about: dict[str, Any] = dict(dtype=DTYPES[dtype], device="meta")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, y = (torch.empty(geometry.shape_of(side), **about).contiguous(memory_format=layout) for side in ("x", "y"))
    weight = allocate(geometry.weight_shape, x, channels_last or geometry.varies != "")
    factors: dict[Factor, Tensor] = dict(x=x, weight=weight, y=y)
    added = None
    if bias and operator != "wgrad":
        added = torch.empty(shape_beside(geometry.shape_of(LEAVES_OUT[operator]), geometry.varies), **about)
    return Call.of_geometry(
        operator,
        geometry,
        taken(operator, factors),
        added,
        finds_bias=bias and operator == "wgrad",
        channels_last=channels_last,
    )


def plan_for(
    operator: Operator, dtype: str, geometry: ConvGeometry, gpu: Gpu, tile: Tile | None = None, **how: bool
) -> Plan:
    """Return the plan of a call on `gpu`, with `tile` or else with the tile that is chosen for that GPU.

    `how` goes to `call_for`: `bias` and `channels_last`.
    """
    with convolution_precision("tf32" if dtype == "tf32" else "ieee"):
        return planners.plan(call_for(operator, dtype, geometry, **how), gpu, tile)


def launch_of(job: Job) -> Launch:
    """Return the launch that is compiled for a job: of its own geometry, or else of a small problem (`for_memory`)."""
    if job.geometry is None:
        return for_memory(job)
    gpu = gpu_of_data_sheet(job.arch).switched(host_descriptors=job.host_descriptors)
    plan = plan_for(job.operator, job.dtype, job.geometry, gpu, bias=with_bias(job))
    return plan.launches[-1 if job.tile is None else 0]


def with_bias(job: Job) -> bool:
    """Whether a job's plan has a bias: in fprop and dgrad always, in wgrad if the kernel sums the bias's gradient."""
    return job.operator != "wgrad" or job.kernel == "wgrad_with_bias"


def for_memory(job: Job) -> Launch:
    """Return the launch that is compiled for a job: of a small problem that gives the job's vector lengths.

    fprop and dgrad add a bias, so that all of their code is compiled. wgrad with the bias's gradient is another job.
    For `sum_partials`, this is the second launch of wgrad with the bias's gradient.
    """
    geometry = small_geometry(job.varies, job.memory, DTYPES[job.dtype].itemsize)
    if job.host_descriptors and job.tile is not None:
        geometry = of_one_block(geometry, job.tile)
    bias = with_bias(job) or job.kernel == "sum_partials"
    switches = dict(host_descriptors=job.host_descriptors, dependent_launch=job.architecture.dependent_launch)
    gpu = INTERPRETER.switched(**switches)
    plan = plan_for(job.operator, job.dtype, geometry, gpu, job.tile, bias=bias)
    if job.tile is None:
        return plan.launches[-1]
    assert of_plan(plan, job.kernel, job.dtype, job.arch) == job
    return plan.launches[0]


def small_geometry(varies: str, memory: Memory, itemsize: int) -> ConvGeometry:
    """Return a small problem with 3 x 3 taps whose channels can be loaded and stored by the vector lengths in `memory`.

    They can not be loaded by longer vectors.
    """
    C, F = (64 + align % (16 // itemsize) for align in memory)
    return ConvGeometry(B=2, C=C, H=8, W=8, F=F, P=6, Q=6, R=3, S=3, varies=varies)


def of_one_block(geometry: ConvGeometry, tile: Tile) -> ConvGeometry:
    """Return the problem with as many positions in an image as a block of `tile` has, so that no block overhangs.

    The strides and dilations are 1. The host makes wgrad's TMA descriptors only where no block overhangs.
    """
    rows, columns = tile.BLOCK_H + geometry.R - 1, tile.BLOCK_W + geometry.S - 1
    return replace(geometry, H=rows, W=columns, P=tile.BLOCK_H, Q=tile.BLOCK_W)


def precompile(plans: Iterable[Plan], device: torch.device) -> int:
    """Compile what `plans` launch on the GPU `device`, in parallel processes. Return how many kernels there are.

    Launches that compile to the same kernel count once. Errors are ignored here. A kernel that does not compile raises
    its error when it is launched.
    """
    variants = list({started.variant: started for plan in plans for started in plan.launches}.values())
    if variants:
        with torch.cuda.device(device), suppress(Exception):
            compile_all(variants, cpus())
    return len(variants)


def compiled(kernel: Any, arguments: dict[str, Any], target: GPUTarget) -> Any:
    """Return the kernel compiled for `target`, from the source and options that `source_of` makes of the arguments."""
    source, options = source_of(kernel, arguments)
    return triton.compile(source, target=target, options=options)


def source_of(kernel: Any, arguments: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """Return what Triton compiles for these arguments, and the LAUNCH_OPTIONS among them.

    Tensors count as aligned to 16 bytes, unless the kernel forbids it. Integers are general: not even 1 is a constant.
    """
    options: dict[str, Any] = {name: arguments[name] for name in LAUNCH_OPTIONS if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, HostDescriptor):
            assert value.tensor is not None
            block = list(value.block_shape)
            signature[parameter.name] = f"tensordesc<{TRITON_DTYPES[value.tensor.dtype]}{block}>"
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TRITON_DTYPES[value.dtype]
            attributes[(index,)] = [] if parameter.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
    return ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes), options
