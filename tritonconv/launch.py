"""Allocate, pick a tile, launch: the only place that starts kernels.

Triton is imported with the first launch, so that the package imports, and the reference runs, where it is missing.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tritonconv.geometry import ConvGeometry
from tritonconv.tiles import INTERPRETER, Device, Operands, Tile, pick

# Masks of this many taps fit the integer that `tap_bits` packs them into.
TAPS_IN_BITS = 32


def allocate(shape: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    """Uninitialised memory of `like`'s dtype and device: every output comes from here."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=memory_format)


def fprop(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, channels_last: bool) -> Tensor:
    """The features y (B, F, P, Q) of image x (B, C, H, W), in x's dtype: float16, bfloat16 or float32."""
    y = allocate(geometry.feature_shape, x, channels_last)
    if y.numel() > 0:
        x, weight = lay_out(x, geometry), filters_last(weight)
        bias = None if bias is None else bias.contiguous()
        tile = pick(geometry, "fprop", operands(x, y, geometry), device_of(x.device))
        launch_fprop(x, weight, bias, y, geometry, tile)
    return y


def launch_fprop(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, geometry: ConvGeometry, tile: Tile) -> None:
    """Run `fprop_kernel` into y: x and y with any strides, weight as `filters_last` lays it, bias contiguous."""
    from tritonconv.kernels.fprop import fprop_kernel

    gemm = geometry.gemm("fprop")
    grid = (-(-gemm.M // tile.BLOCK_M) * -(-gemm.N // tile.BLOCK_N) * gemm.G,)
    with torch.cuda.device_of(x):
        fprop_kernel[grid](**fprop_arguments(x, weight, bias, y, geometry, tile))


def fprop_arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, geometry: ConvGeometry, tile: Tile
) -> dict[str, Any]:
    """Everything `fprop_kernel` is launched with, as a value that tests can look at and compile from."""
    import triton.language as tl

    align_x = alignment(x, geometry.C // geometry.G)
    align_y = stores(y, geometry)
    # The interpreter multiplies the bit patterns of bfloat16 and rounds float16 products: give it float32.
    dot_dtype = tl.float32 if interpreted() else getattr(tl, str(x.dtype).removeprefix("torch."))
    stride_xb, stride_xc, stride_xh, stride_xw = x.stride()
    stride_yb, stride_yf, stride_yp, stride_yq = y.stride()
    return dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
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
        WIDE_Y=sum((n - 1) * stride for n, stride in zip(y.shape, y.stride(), strict=True)) >= 2**31,
        TAP_BITS=max(geometry.R, geometry.S) <= TAPS_IN_BITS,
        PRECISION="tf32" if x.dtype == torch.float32 and tf32_allowed() else "ieee",
        DOT_DTYPE=dot_dtype,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=tile.BLOCK_N,
        BLOCK_K=tile.BLOCK_K,
        GROUP_M=tile.GROUP_M,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def lay_out(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """x itself, or, where a copy lets whole 16-byte vectors of channels be loaded, x with its channels adjacent."""
    vector = 16 // x.element_size()
    if geometry.C // geometry.G % vector or alignment(x, vector) == vector:
        return x
    return x.clone(memory_format=torch.channels_last)


def filters_last(weight: Tensor) -> Tensor:
    """The weight (F, C/G, R, S) with its elements in the order (F, R, S, C/G), without gaps, aligned to 16 bytes."""
    weight = weight.permute(0, 2, 3, 1).contiguous()
    return weight if weight.data_ptr() % 16 == 0 else weight.clone()


def alignment(tensor: Tensor, channels: int) -> int:
    """How many adjacent channels one load may take: 8, 4, 2 or 1, and at most 16 bytes of them.

    Every pixel and every group of `channels` must start at a multiple of it.
    """
    along_b, along_c, along_h, along_w = tensor.stride()
    if along_c != 1:
        return 1
    vector = 16 // tensor.element_size()
    starts = (along_b, along_h, along_w, channels)
    while vector > 1 and (tensor.data_ptr() % 16 or any(start % vector for start in starts)):
        vector //= 2
    return vector


def operands(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Operands:
    """What `pick` wants to know of x and y, and of a weight that follows x."""
    exact = x.dtype == torch.float32 and not tf32_allowed()
    return Operands(x.element_size(), alignment(x, geometry.C // geometry.G), stores(y, geometry) > 1, exact)


def stores(y: Tensor, geometry: ConvGeometry) -> int:
    """How many adjacent features one store takes: 16 bytes of them, or 1."""
    vector = 16 // y.element_size()
    return vector if alignment(y, geometry.F // geometry.G) == vector else 1


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
