"""Which kernels there are to compile, for which operands and tiles, and how that is done without a GPU."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.contenders import DTYPES
from bench.layers import Layer
from bench.lowering.chips import CHIPS, Chip
from tests.oracle import convolution_precision
from tritonconv import launch, tiles
from tritonconv.compiling import compile_all, cpus
from tritonconv.geometry import ConvGeometry, Operator

# Of the three operators the kernels; wgrad once more with the bias's sum, and the kernel that adds up its parts.
KERNELS = ("fprop", "dgrad", "wgrad", "wgrad_with_bias", "sum_partials")
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
    tile: tiles.Tile | None
    arch: str

    @property
    def operator(self) -> Operator:
        return operator_of(self.kernel)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.arch]


def operator_of(kernel: str) -> Operator:
    """Whose launches the kernel is among."""
    return kernel if kernel in ("fprop", "dgrad") else "wgrad"  # type: ignore[return-value]


def memories(operator: Operator, itemsize: int) -> list[Memory]:
    """Every combination that a launch can meet, the best first."""
    whole, loads = 16 // itemsize, sorted({1, 4 // itemsize, 16 // itemsize}, reverse=True)
    match operator:
        case "fprop":
            return [Memory(load, store) for load in loads for store in (whole, 1)]
        case "dgrad":
            return [Memory(store, load) for load in loads for store in (whole, 1)]
        case "wgrad":
            return [Memory(x, y) for x in loads for y in loads]


def operands_of(operator: Operator, dtype: str, memory: Memory) -> tiles.Operands:
    """What `pick` is told of such operands."""
    itemsize = DTYPES[dtype].itemsize
    loaded, stored = {"fprop": memory, "dgrad": memory[::-1], "wgrad": (min(memory), 16 // itemsize)}[operator]
    return tiles.Operands(itemsize, loaded, stored > 1, exact=dtype == "float32")


def device_of(arch: str) -> tiles.Device:
    return tiles.Device.of(CHIPS[arch].capability, CHIPS[arch].multiprocessors)


def jobs(
    archs: Iterable[str], dtypes: Iterable[str], kernels: Iterable[str], layers: Sequence[Layer], everywhere: bool
) -> list[Job]:
    """Every shipped tile in the best memory that it ships for, and in what `layers` need; or `everywhere`, in all."""
    found: dict[Job, None] = {}
    for arch, dtype in product(archs, dtypes):
        for kernel in kernels:
            found |= dict.fromkeys(shipped(kernel, dtype, arch, everywhere))
        found |= dict.fromkeys(job for job in picked(layers, dtype, arch) if job.kernel in kernels)
    return list(found)


def shipped(kernel: str, dtype: str, arch: str, everywhere: bool) -> list[Job]:
    """Every tile that the kernel may run with: in the best memory for each, or `everywhere`, in all."""
    if kernel == "sum_partials":
        return [adding(dtype, arch)]
    found: dict[tuple[tiles.Tile, Memory | None], Job] = {}
    for memory in memories(operator_of(kernel), DTYPES[dtype].itemsize):
        operands = operands_of(operator_of(kernel), dtype, memory)
        for tile in tiles.available(operator_of(kernel), operands, device_of(arch)):
            found.setdefault((tile, memory if everywhere else None), Job(kernel, dtype, memory, tile, arch))
    return list(found.values())


def adding(dtype: str, arch: str) -> Job:
    return Job("sum_partials", dtype, Memory(1, 1), None, arch)


def picked(layers: Sequence[Layer], dtype: str, arch: str) -> dict[Job, list[str]]:
    """What the operators would launch for `layers`, and each kernel for which of them."""
    chosen: dict[Job, list[str]] = {}
    for layer in layers:
        if layer.why_not is not None:
            continue
        for kernel in ("fprop", "dgrad", "wgrad", "wgrad_with_bias"):
            with_bias = kernel == "wgrad_with_bias"
            first, *then = launches(operator_of(kernel), dtype, layer.geometry, device_of(arch), bias=with_bias)
            chosen.setdefault(of_launch(first, kernel, dtype, arch), []).append(layer.name)
            if then and not with_bias:
                chosen.setdefault(adding(dtype, arch), []).append(layer.name)
    return chosen


def of_launch(started: launch.Launch, kernel: str, dtype: str, arch: str) -> Job:
    """The job that compiles what is launched, up to where in memory operands begin and how far they reach."""
    memory = Memory(started.arguments["ALIGN_X"], started.arguments["ALIGN_Y"])
    return Job(kernel, dtype, memory, replace(tile_of(started), SPLIT_K=1), arch)


def tile_of(started: launch.Launch) -> tiles.Tile:
    """The tile that is launched."""
    given = started.arguments
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "GROUP_M")
    return tiles.Tile(**{name: given[name] for name in names}, SPLIT_K=given.get("splits", 1))


def launches(
    operator: Operator,
    dtype: str,
    geometry: ConvGeometry,
    device: tiles.Device,
    tile: tiles.Tile | None = None,
    bias: bool = True,
    channels_last: bool = True,
) -> list[launch.Launch]:
    """What is launched for `geometry`, on tensors without data."""
    size: dict[str, Any] = dict(dtype=DTYPES[dtype], device="meta")
    shapes = (geometry.image_shape, geometry.weight_shape, geometry.feature_shape)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight, y = (torch.empty(shape, **size).contiguous(memory_format=layout) for shape in shapes)
    factors = {
        "fprop": (x, weight, torch.empty(geometry.F, **size) if bias else None),
        "dgrad": (y, weight, torch.empty(geometry.C, **size) if bias else None),
        "wgrad": (x, y, bias),
    }
    with convolution_precision("tf32" if dtype == "tf32" else "ieee"):
        return launch.PLANS[operator](*factors[operator], geometry, channels_last, device, tile).launches


def for_memory(job: Job) -> launch.Launch:
    """The launch that is compiled: 3x3 taps, and channels that can be loaded and stored as the job says.

    With what makes most of the kernel, the bias, but for wgrad, of which that is a kernel of its own.
    """
    itemsize = DTYPES[job.dtype].itemsize
    C, F = (64 + align % (16 // itemsize) for align in job.memory)
    geometry = ConvGeometry(B=2, C=C, H=8, W=8, F=F, P=6, Q=6, R=3, S=3)
    bias = job.kernel != "wgrad"
    started = launches(job.operator, job.dtype, geometry, tiles.INTERPRETER, job.tile, bias)
    if job.tile is None:
        return started[-1]
    assert of_launch(started[0], job.kernel, job.dtype, job.arch) == job
    return started[0]


def operands_for(operator: Operator, dtype: str, geometry: ConvGeometry, device: tiles.Device) -> tiles.Operands:
    """What `pick` is told of the operands of `geometry`, in channels_last."""
    given = launches(operator, dtype, geometry, device, bias=False)[0].arguments
    return operands_of(operator, dtype, Memory(given["ALIGN_X"], given["ALIGN_Y"]))


def precompile(plans: Iterable[Sequence[launch.Launch]], device: torch.device) -> int:
    """Compile what `plans` launch for the GPU `device`, in parallel processes. Returns how many kernels there are.

    What does not compile is left for its launch to complain about.
    """
    variants = list({started.variant: started for plan in plans for started in plan}.values())
    if variants:
        with torch.cuda.device(device), suppress(Exception):
            compile_all(variants, cpus())
    return len(variants)


def compiled(kernel: Any, arguments: dict[str, Any], target: GPUTarget) -> Any:
    """The kernel compiled for `target`, specialised as Triton would specialise it for these arguments."""
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
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
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=options)
