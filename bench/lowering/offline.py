"""Which kernels there are to compile, for which operands and tiles, and how that is done without a GPU."""

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
from tritonconv.launch.layout import allocate, paired_vectors
from tritonconv.launch.plan import Launch, Plan
from tritonconv.tiling import fits, pick
from tritonconv.tiling.tile import Operands, Tile
from tritonconv.tools.parallel_compile import compile_all, cpus

# What a weight varies over, by what is put behind an operator's name to call its kernel for such weights.
VARYING = {"local": "p q", "per_sample": "b", "dynamic": "b p q"}
# Of the three operators the kernels; wgrad once more with the bias's sum, and the kernel that adds up its parts. Then
# those for weights that vary.
DENSE = ("fprop", "dgrad", "wgrad", "wgrad_with_bias", "sum_partials")
KERNELS = (*DENSE, *(f"{operator}_{how}" for how in VARYING for operator in OPERATORS))
TRITON_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Memory(NamedTuple):
    """How many adjacent channels of the image and of the features are loaded or stored at once."""

    x: int
    y: int


@dataclass(frozen=True)
class Job:
    """One kernel to compile: for which operands, with which tile, for which architecture.

    The kernel that adds up wgrad's parts has no tile, and one memory.
    """

    kernel: str
    dtype: str
    memory: Memory
    tile: Tile | None
    arch: str

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
    """Whose launches the kernel is among."""
    operator = kernel.partition("_")[0]
    return operator if operator in OPERATORS else "wgrad"


def varies_of(kernel: str) -> str:
    """What the kernel's weight varies over, in the letters of `ConvGeometry.varies`."""
    return VARYING.get(kernel.partition("_")[2], "")


def memories(operator: Operator, itemsize: int) -> list[Memory]:
    """Every combination that a launch can meet, the best first."""
    whole, loads = 16 // itemsize, sorted({1, 4 // itemsize, 16 // itemsize}, reverse=True)
    match operator:
        case "fprop":
            return [Memory(load, store) for load in loads for store in (whole, 1)]
        case "dgrad":
            return [Memory(store, load) for load in loads for store in (whole, 1)]
        case "wgrad":
            return list(dict.fromkeys(Memory(*paired_vectors(x, y, whole)) for x in loads for y in loads))


def operands_of(operator: Operator, dtype: str, memory: Memory, varies: str = "") -> Operands:
    """What `pick` is told of such operands."""
    itemsize = DTYPES[dtype].itemsize
    loaded, stored = {"fprop": memory, "dgrad": memory[::-1], "wgrad": (min(memory), 16 // itemsize)}[operator]
    blocks = loaded * itemsize == 16 and not varies
    return Operands(itemsize, loaded, stored > 1, exact=dtype == "float32", varies=varies, blocks=blocks)


def gpu_of_data_sheet(arch: str) -> Gpu:
    """The GPU of the architecture's data sheet, without a name, so that no measured tiles are found for it."""
    architecture = ARCHITECTURES[arch]
    return Gpu(architecture, data_sheet(architecture).multiprocessors)


def jobs(
    archs: Iterable[str], dtypes: Iterable[str], kernels: Iterable[str], layers: Sequence[Layer], everywhere: bool
) -> list[Job]:
    """Every shipped tile in the best memory that it ships for, and in what `layers` need; or `everywhere`, in all."""
    found: dict[Job, None] = {}
    for arch, dtype in product(archs, dtypes):
        for kernel in kernels:
            found |= dict.fromkeys(shipped_jobs(kernel, dtype, arch, everywhere))
        found |= dict.fromkeys(job for job in picked_jobs(layers, dtype, arch) if job.kernel in kernels)
    return list(found)


def shipped_jobs(kernel: str, dtype: str, arch: str, everywhere: bool) -> list[Job]:
    """Every tile that the kernel may run with: in the best memory for each, or `everywhere`, in all."""
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
    return Job("sum_partials", dtype, Memory(1, 1), None, arch)


def picked_jobs(layers: Sequence[Layer], dtype: str, arch: str) -> dict[Job, list[str]]:
    """What the operators would launch for `layers`, and each kernel for which of them."""
    chosen: dict[Job, list[str]] = {}
    for layer in layers:
        for kernel in kernels_for(layer.geometry):
            with_bias = kernel == "wgrad_with_bias"
            plan = plan_for(operator_of(kernel), dtype, layer.geometry, gpu_of_data_sheet(arch), bias=with_bias)
            chosen.setdefault(of_plan(plan, kernel, dtype, arch), []).append(layer.name)
            if len(plan.launches) > 1 and not with_bias:
                chosen.setdefault(adding(dtype, arch), []).append(layer.name)
    return chosen


def kernels_for(geometry: ConvGeometry) -> list[str]:
    """The kernels, named as above, that a layer of such a geometry is made of."""
    return [name for name in KERNELS if varies_of(name) == geometry.varies and name != "sum_partials"]


def of_plan(plan: Plan, kernel: str, dtype: str, arch: str) -> Job:
    """The job that compiles what is planned, up to where in memory operands begin and how far they reach."""
    given = plan.launches[0].arguments
    return Job(kernel, dtype, Memory(given["VECTOR_X"], given["VECTOR_Y"]), replace(plan.tile, SPLIT_K=1), arch)


def call_for(
    operator: Operator, dtype: str, geometry: ConvGeometry, *, bias: bool = False, channels_last: bool = True
) -> Call:
    """A call on tensors without data. With a `bias`, fprop and dgrad add one, and wgrad finds the gradient of one."""
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
    """The plan of `call_for`, to which `how` goes, on `gpu`: with this tile or the one that is picked there."""
    with convolution_precision("tf32" if dtype == "tf32" else "ieee"):
        return planners.plan(call_for(operator, dtype, geometry, **how), gpu, tile)


def for_memory(job: Job) -> Launch:
    """The launch that is compiled: 3x3 taps, and channels that can be loaded and stored as the job says.

    With what makes most of the kernel, the bias, but for wgrad, of which that is a kernel of its own.
    """
    geometry = small_geometry(job.varies, job.memory, DTYPES[job.dtype].itemsize)
    bias = job.operator != "wgrad" or job.kernel in ("wgrad_with_bias", "sum_partials")
    plan = plan_for(job.operator, job.dtype, geometry, INTERPRETER, job.tile, bias=bias)
    if job.tile is None:
        return plan.launches[-1]
    assert of_plan(plan, job.kernel, job.dtype, job.arch) == job
    return plan.launches[0]


def small_geometry(varies: str, memory: Memory, itemsize: int) -> ConvGeometry:
    C, F = (64 + align % (16 // itemsize) for align in memory)
    return ConvGeometry(B=2, C=C, H=8, W=8, F=F, P=6, Q=6, R=3, S=3, varies=varies)


def precompile(plans: Iterable[Plan], device: torch.device) -> int:
    """Compile what `plans` launch for the GPU `device`, in parallel processes. Returns how many kernels there are.

    What does not compile is left for its launch to complain about.
    """
    variants = list({started.variant: started for plan in plans for started in plan.launches}.values())
    if variants:
        with torch.cuda.device(device), suppress(Exception):
            compile_all(variants, cpus())
    return len(variants)


def compiled(kernel: Any, arguments: dict[str, Any], target: GPUTarget) -> Any:
    """The kernel compiled for `target`, specialised as Triton would specialise it for these arguments."""
    source, options = source_of(kernel, arguments)
    return triton.compile(source, target=target, options=options)


def source_of(kernel: Any, arguments: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton compiles for these arguments, and with which options."""
    options: dict[str, Any] = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TRITON_DTYPES[value.dtype]
            attributes[(index,)] = [] if parameter.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
    return ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes), options
