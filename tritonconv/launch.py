"""Allocate, pick a tile, launch: the only place that starts kernels.

A `Plan` is everything that will be done, as a value: tests look at it, and `tritonconv.warmup` compiles from it without
running it. Triton is imported with the first plan, so that the package imports, and the reference runs, where it is
missing.
"""

from collections.abc import Callable
from functools import cache
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.layout import adjacent, alignment, allocate, channels_first, filters_last, whole_stores, wide
from tritonconv.tiles import INTERPRETER, Device, Operands, Tile, pick

# Masks of this many taps fit the integer that `tap_bits` packs them into.
TAPS_IN_BITS = 32
# Elements that one program of the second step of wgrad sums up.
SUM_BLOCK = 512


class Launch(NamedTuple):
    """One start of a kernel."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]

    @property
    def variant(self) -> tuple[Any, ...]:
        """What Triton compiles the kernel for: constants, the types of its pointers, and the widths of its integers."""
        return self.kernel.__name__, *((name, compiled_for(name, value)) for name, value in self.arguments.items())


def compiled_for(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype)
    if value is None or name.startswith("num_") or (name.isupper() and len(name) > 1):
        return value
    return "i32" if value < 2**31 else "i64"


class Plan(NamedTuple):
    """The results, not computed yet, and what computes them."""

    results: tuple[Tensor, ...]
    launches: list[Launch]


def run(plan: Plan) -> tuple[Tensor, ...]:
    """Start the kernels of `plan`, on the device of its results."""
    with torch.cuda.device_of(plan.results[0]):
        for kernel, programs, arguments in plan.launches:
            kernel[(programs,)](**arguments)
    return plan.results


def fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The features y (B, F, P, Q) of image x (B, C, H, W), in x's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.fprop import fprop_kernel

    C, F = geometry.C // geometry.G, geometry.F // geometry.G
    y = allocate(geometry.feature_shape, x, channels_last)
    x = adjacent(x, C)
    align_x, align_y = alignment(x, C), whole_stores(y, F)
    tile = tile or pick(geometry, "fprop", operands(x, align_x, align_y > 1), device)
    arguments = dict(
        x_ptr=x,
        weight_ptr=filters_last(weight),
        bias_ptr=None if bias is None else bias.contiguous(),
        y_ptr=y,
        **integers(geometry, x, y, align_x, align_y),
        WIDE=wide(y),
        TAP_BITS=max(geometry.R, geometry.S) <= TAPS_IN_BITS,
        **constants(x, tile),
    )
    programs = ceildiv(geometry.B * geometry.P * geometry.Q, tile.BLOCK_M) * ceildiv(F, tile.BLOCK_N) * geometry.G
    return plan((y,), Launch(fprop_kernel, programs, arguments))


def dgrad(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The image x (B, C, H, W) that features y (B, F, P, Q) spread over, in y's dtype: float16, bfloat16 or float32."""
    from tritonconv.kernels.dgrad import dgrad_kernel

    C, F = geometry.C // geometry.G, geometry.F // geometry.G
    x = allocate(geometry.image_shape, y, channels_last)
    y = adjacent(y, F)
    align_x, align_y = whole_stores(x, C), alignment(y, F)
    tile = tile or pick(geometry, "dgrad", operands(y, align_y, align_x > 1), device)
    arguments = dict(
        y_ptr=y,
        weight_ptr=channels_first(weight, geometry.G),
        bias_ptr=None if bias is None else bias.contiguous(),
        x_ptr=x,
        **integers(geometry, x, y, align_x, align_y),
        period_h=geometry.stride_h // gcd(geometry.stride_h, geometry.dilation_h),
        period_w=geometry.stride_w // gcd(geometry.stride_w, geometry.dilation_w),
        WIDE=wide(x),
        TAP_BITS=max(geometry.R, geometry.S) <= TAPS_IN_BITS,
        **constants(y, tile),
    )
    in_phase = geometry.B * ceildiv(geometry.H, geometry.stride_h) * ceildiv(geometry.W, geometry.stride_w)
    phases = geometry.stride_h * geometry.stride_w
    programs = phases * ceildiv(in_phase, tile.BLOCK_M) * ceildiv(C, tile.BLOCK_N) * geometry.G
    return plan((x,), Launch(dgrad_kernel, programs, arguments))


def wgrad(
    x: Tensor,
    y: Tensor,
    with_bias: bool,
    geometry: ConvGeometry,
    channels_last: bool,
    device: Device,
    tile: Tile | None = None,
) -> Plan:
    """The weight (F, C/G, R, S) by which x (B, C, H, W) and y (B, F, P, Q) correlate, in their dtype; with the bias
    (F,), the sum of y, if that is wanted.

    The workspace holds SPLIT_K weights, and biases, in float32.
    """
    from tritonconv.kernels.wgrad import sum_partials_kernel, wgrad_kernel

    C, F, taps = geometry.C // geometry.G, geometry.F // geometry.G, geometry.R * geometry.S
    weight = allocate(geometry.weight_shape, x, channels_last)
    bias = allocate((geometry.F,), x, False) if with_bias else None
    x, y = adjacent(x, C), adjacent(y, F)
    align_x, align_y = alignment(x, C), alignment(y, F)
    tile = tile or pick(geometry, "wgrad", operands(x, min(align_x, align_y), True), device)
    partials = allocate((tile.SPLIT_K, *weight.shape), x, False, torch.float32)
    tiles_m, tiles_n = ceildiv(F, tile.BLOCK_M), ceildiv(taps * C, tile.BLOCK_N)
    bias_splits = tile.SPLIT_K * tiles_n
    bias_partials = allocate((bias_splits, geometry.F), x, False, torch.float32) if with_bias else None
    far_h, far_w = geometry.P * geometry.stride_h, geometry.Q * geometry.stride_w
    multiply = dict(
        x_ptr=x,
        y_ptr=y,
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        **integers(geometry, x, y, align_x, align_y),
        splits=tile.SPLIT_K,
        WIDE=far_h * x.stride(2) + far_w * x.stride(3) >= 2**31 or wide(y[:1]),
        **constants(x, tile),
    )
    stride_f, stride_c, stride_r, stride_s = weight.stride()
    add = dict(
        partials_ptr=partials,
        bias_partials_ptr=bias_partials,
        weight_ptr=weight,
        bias_ptr=bias,
        filters=geometry.F,
        C=C,
        R=geometry.R,
        S=geometry.S,
        stride_f=stride_f,
        stride_c=stride_c,
        stride_r=stride_r,
        stride_s=stride_s,
        splits=tile.SPLIT_K,
        bias_splits=bias_splits,
        BLOCK=SUM_BLOCK,
    )
    return plan(
        (weight,) if bias is None else (weight, bias),
        Launch(wgrad_kernel, tiles_m * tiles_n * geometry.G * tile.SPLIT_K, multiply),
        Launch(sum_partials_kernel, ceildiv(weight.numel(), SUM_BLOCK), add),
    )


PLANS: dict[Operator, Callable[..., Plan]] = {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}


def plan(results: tuple[Tensor, ...], *launches: Launch) -> Plan:
    return Plan(results, [launch for launch in launches if launch.programs > 0])


def ceildiv(a: int, b: int) -> int:
    return -(-a // b)


def integers(geometry: ConvGeometry, x: Tensor, y: Tensor, align_x: int, align_y: int) -> dict[str, int]:
    """What every kernel takes: sizes, of one group, and strides, divided by what they are known to be multiples of."""
    stride_xb, stride_xc, stride_xh, stride_xw = x.stride()
    stride_yb, stride_yf, stride_yp, stride_yq = y.stride()
    return dict(
        B=geometry.B,
        C=geometry.C // geometry.G // align_x,
        H=geometry.H,
        W=geometry.W,
        F=geometry.F // geometry.G // align_y,
        P=geometry.P,
        Q=geometry.Q,
        R=geometry.R,
        S=geometry.S,
        stride_xb=stride_xb // align_x,
        stride_xc=stride_xc,
        stride_xh=stride_xh // align_x,
        stride_xw=stride_xw // align_x,
        stride_yb=stride_yb // align_y,
        stride_yf=stride_yf,
        stride_yp=stride_yp // align_y,
        stride_yq=stride_yq // align_y,
        stride_h=geometry.stride_h,
        stride_w=geometry.stride_w,
        pad_h=geometry.pad_h,
        pad_w=geometry.pad_w,
        dilation_h=geometry.dilation_h,
        dilation_w=geometry.dilation_w,
        ALIGN_X=align_x,
        ALIGN_Y=align_y,
    )


def constants(operand: Tensor, tile: Tile) -> dict[str, Any]:
    """What every kernel is compiled for: the tile, and how to multiply operands of this dtype."""
    import triton.language as tl

    # The interpreter multiplies the bit patterns of bfloat16 and rounds float16 products: give it float32.
    dot_dtype = tl.float32 if interpreted() else getattr(tl, str(operand.dtype).removeprefix("torch."))
    return dict(
        PRECISION="tf32" if operand.dtype == torch.float32 and tf32_allowed() else "ieee",
        DOT_DTYPE=dot_dtype,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=tile.BLOCK_N,
        BLOCK_K=tile.BLOCK_K,
        GROUP_M=tile.GROUP_M,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def operands(operand: Tensor, vector: int, whole: bool) -> Operands:
    """What `pick` wants to know of the operands."""
    exact = operand.dtype == torch.float32 and not tf32_allowed()
    return Operands(operand.element_size(), vector, whole, exact)


def tf32_allowed() -> bool:
    """torch's switch for convolutions: `torch.backends.cudnn.conv.fp32_precision`, and `allow_tf32` behind it."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


@cache
def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 makes them, when they are first imported."""
    from triton.runtime import JITFunction

    from tritonconv.kernels.fprop import fprop_kernel

    return not isinstance(fprop_kernel, JITFunction)


@cache
def device_of(device: torch.device) -> Device:
    """The processor that a kernel on `device` runs on. Raises what torch raises if there is none."""
    if interpreted():
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    capability = 0 if torch.version.hip else 10 * properties.major + properties.minor
    return Device.of(capability, properties.multi_processor_count)
