"""What kernels are told of a convolution, by the names of their parameters, and what `pick` is told of the operands."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tritonconv.bias import letters_of
from tritonconv.geometry import ConvGeometry
from tritonconv.launch.layout import bias_strides, can_copy_blocks
from tritonconv.runtime import interpreted, tf32_allowed
from tritonconv.tiling.tile import Operands, Tile

# So many taps fit one integer, with its sign to spare.
TAPS_IN_BITS = 31


def integers(geometry: ConvGeometry, x: Tensor, y: Tensor, vector_x: int, vector_y: int) -> dict[str, int]:
    """What every kernel takes: sizes, of one group, and strides, divided by what they are known to be multiples of."""
    stride_xb, stride_xc, stride_xh, stride_xw = x.stride()
    stride_yb, stride_yf, stride_yp, stride_yq = y.stride()
    return dict(
        B=geometry.B,
        C=geometry.C // geometry.G // vector_x,
        H=geometry.H,
        W=geometry.W,
        F=geometry.F // geometry.G // vector_y,
        P=geometry.P,
        Q=geometry.Q,
        R=geometry.R,
        S=geometry.S,
        stride_xb=stride_xb // vector_x,
        stride_xc=stride_xc,
        stride_xh=stride_xh // vector_x,
        stride_xw=stride_xw // vector_x,
        stride_yb=stride_yb // vector_y,
        stride_yf=stride_yf,
        stride_yp=stride_yp // vector_y,
        stride_yq=stride_yq // vector_y,
        stride_h=geometry.stride_h,
        stride_w=geometry.stride_w,
        pad_h=geometry.pad_h,
        pad_w=geometry.pad_w,
        dilation_h=geometry.dilation_h,
        dilation_w=geometry.dilation_w,
        VECTOR_X=vector_x,
        VECTOR_Y=vector_y,
    )


def kernel_bias(bias: Tensor, geometry: ConvGeometry) -> Tensor:
    """A bias as kernels take it. Raises ValueError for one that varies over more than the weight."""
    letters = letters_of(bias)
    if not set(letters) <= set(geometry.varies):
        raise ValueError(f"the bias varies over {letters!r}, and the weight only over {geometry.varies!r}")
    return bias if letters else bias.contiguous()  # which kernels take without its strides


def variation_arguments(geometry: ConvGeometry) -> dict[str, bool]:
    """Over what the weight varies."""
    return dict(PER_SAMPLE=geometry.per_sample, PER_LOCATION=geometry.per_location)


def gather_arguments(
    geometry: ConvGeometry, side: Tensor, vector: int, bias: Tensor | None, shape: Sequence[int], tile: Tile
) -> dict[str, Any]:
    """What those kernels take that gather the rows of `side`, `vector` elements at a time, and add `bias` to a result
    of this shape.
    """
    stride_b, stride_n, stride_h, stride_w = bias_strides(bias, shape)
    return dict(
        stride_bias_b=stride_b,
        stride_bias_n=stride_n,
        stride_bias_h=stride_h,
        stride_bias_w=stride_w,
        BIAS_VARIES=bias is not None and letters_of(bias) != "",
        **variation_arguments(geometry),
        **tap_arguments(geometry, side, vector, tile),
        # What Triton must be told of a loop without tensor cores, which it would not pipeline.
        STAGES=tile.num_stages if tile.BLOCK_M < 16 else None,
    )


def period_arguments(geometry: ConvGeometry) -> dict[str, int]:
    """What fprop in whole blocks, and any dgrad, take to follow the stride."""
    period_h, period_w = geometry.periods
    return dict(period_h=period_h, period_w=period_w)


def block_shape_arguments(tile: Tile) -> dict[str, int]:
    """How pixels lie in a whole block."""
    return dict(BLOCK_B=tile.BLOCK_B, BLOCK_H=tile.BLOCK_H, BLOCK_W=tile.BLOCK_W)


def tma_arguments(geometry: ConvGeometry, tile: Tile) -> dict[str, Any]:
    """What fprop and dgrad in whole blocks take beside what the gathered ones do."""
    return dict(groups=geometry.G, HALVES=tile.halves, **block_shape_arguments(tile))


def tap_arguments(geometry: ConvGeometry, side: Tensor, vector: int, tile: Tile) -> dict[str, int]:
    """How a kernel that gathers the rows of `side`, `vector` elements at a time, gets from tap to tap."""
    _, stride_c, stride_h, stride_w = side.stride()
    reach = geometry.R * geometry.dilation_h * stride_h + geometry.S * geometry.dilation_w * stride_w
    # Where addresses take most of the time, all taps in one integer gain little, and would be a variant to compile.
    whole_loads = vector * side.element_size() == 16
    return dict(
        AXES_PER_INTEGER=2
        if whole_loads and geometry.R * geometry.S <= TAPS_IN_BITS
        else int(max(geometry.R, geometry.S) <= TAPS_IN_BITS),
        WIDE_STEPS=reach + tile.BLOCK_K * stride_c >= 2**31,
    )


def tile_arguments(operand: Tensor, tile: Tile) -> dict[str, Any]:
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


def described_operands(geometry: ConvGeometry, vector: int, whole: bool, *loaded: Tensor) -> Operands:
    """What `pick` is told: the sides that are `loaded` are so by `vector` elements, and results are stored by 16 bytes
    if `whole`. Blocks can be copied of channels and filters that are a multiple of 16 bytes.
    """
    exact = loaded[0].dtype == torch.float32 and not tf32_allowed()
    itemsize = loaded[0].element_size()
    copied = (geometry.C // geometry.G * itemsize) % 16 == (geometry.F // geometry.G * itemsize) % 16 == 0
    blocks = copied and all(can_copy_blocks(side, geometry) for side in loaded) and not geometry.varies
    return Operands(itemsize, vector, whole, exact, geometry.varies, blocks and vector * itemsize == 16)
