"""The arguments of kernels, by the names of their parameters, and the `Operands` that `pick` chooses a tile by."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tritonconv.bias import letters_of
from tritonconv.geometry import ConvGeometry
from tritonconv.launch.layout import bias_strides, can_copy_blocks
from tritonconv.runtime import interpreted, tf32_allowed
from tritonconv.tiling.tile import Operands, Tile

# How many taps have a bit in one 32-bit integer, not counting its sign.
TAPS_IN_BITS = 31


def integers(geometry: ConvGeometry, x: Tensor, y: Tensor, vector_x: int, vector_y: int) -> dict[str, int]:
    """Return the integers that every kernel of an operator takes: the sizes of one group, strides and sampling.

    C, and the strides of x over b, h and w, are divided by `vector_x`, which becomes VECTOR_X. F, and the strides of y
    over b, p and q, are divided by `vector_y`, which becomes VECTOR_Y. Channel strides are not divided. The kernel
    multiplies again, so that Triton knows the alignment.
    """
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
    """Return the bias as kernels read it: a copy if it does not vary and is not contiguous, or else itself.

    Raise ValueError if the bias varies over a letter that the weight does not vary over.
    """
    letters = letters_of(bias)
    if not set(letters) <= set(geometry.varies):
        raise ValueError(f"the bias varies over {letters!r}, and the weight only over {geometry.varies!r}")
    return bias if letters else bias.contiguous()  # kernels take no stride of a bias that does not vary


def variation_arguments(geometry: ConvGeometry) -> dict[str, bool]:
    """Return the flags PER_SAMPLE and PER_LOCATION: whether the weight varies over samples, and over locations."""
    return dict(PER_SAMPLE=geometry.per_sample, PER_LOCATION=geometry.per_location)


def gather_arguments(
    geometry: ConvGeometry, side: Tensor, vector: int, bias: Tensor | None, shape: Sequence[int], tile: Tile
) -> dict[str, Any]:
    """Return the arguments that fprop and dgrad take without TMA, and not with it.

    The kernel gathers the pixels of `side`, by `vector` elements at once. It adds `bias`, or nothing if that is None,
    to a result of this `shape`.
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
        # Triton pipelines a loop without tensor cores only if it is told the number of stages.
        STAGES=tile.num_stages if tile.BLOCK_M < 16 else None,
    )


def period_arguments(geometry: ConvGeometry) -> dict[str, int]:
    """Return the periods of the stride's phases, which fprop with TMA and both kernels of dgrad take."""
    period_h, period_w = geometry.periods
    return dict(period_h=period_h, period_w=period_w)


def block_shape_arguments(tile: Tile) -> dict[str, int]:
    """Return the shape of a block of pixels that TMA copies, as BLOCK_B, BLOCK_H and BLOCK_W."""
    return dict(BLOCK_B=tile.BLOCK_B, BLOCK_H=tile.BLOCK_H, BLOCK_W=tile.BLOCK_W)


def tma_arguments(geometry: ConvGeometry, tile: Tile) -> dict[str, Any]:
    """Return the arguments that fprop and dgrad take with TMA, and not without."""
    return dict(groups=geometry.G, HALVES=tile.halves, **block_shape_arguments(tile))


def tap_arguments(geometry: ConvGeometry, side: Tensor, vector: int, tile: Tile) -> dict[str, int]:
    """Return the arguments by which a kernel that gathers the pixels of `side` gets from tap to tap.

    AXES_PER_INTEGER says how the kernel remembers which taps lie inside the side. It is 2 if one integer has a bit for
    each tap: if a load takes 16 bytes, and R*S is at most TAPS_IN_BITS. Otherwise it is 1 if each axis has an integer
    of its own: if R and S are at most TAPS_IN_BITS. Otherwise it is 0, and the kernel compares indices. WIDE_STEPS says
    whether the pointers may move by 2^31 elements or more from one step to the next.
    """
    _, stride_c, stride_h, stride_w = side.stride()
    reach = geometry.R * geometry.dilation_h * stride_h + geometry.S * geometry.dilation_w * stride_w
    # With narrow loads, addresses take most of the time. One integer for all taps would gain little there, and would be
    # one more variant to compile.
    whole_loads = vector * side.element_size() == 16
    return dict(
        AXES_PER_INTEGER=2
        if whole_loads and geometry.R * geometry.S <= TAPS_IN_BITS
        else int(max(geometry.R, geometry.S) <= TAPS_IN_BITS),
        WIDE_STEPS=reach + tile.BLOCK_K * stride_c >= 2**31,
    )


def tile_arguments(operand: Tensor, tile: Tile) -> dict[str, Any]:
    """Return the constants that every kernel of an operator takes: the tile, and how to multiply.

    Operands of the dtype of `operand` are multiplied in TF32 if it is float32 and torch allows that. Otherwise they are
    multiplied in their dtype, or in float32 by the interpreter.
    """
    import triton.language as tl

    # The interpreter multiplies the bit patterns of bfloat16, and rounds products of float16. So it gets float32.
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
    """Return the `Operands` of a call, by which `pick` chooses a tile.

    The sides in `loaded` are loaded by `vector` elements, and results are stored by 16 bytes if `whole`. `tma_possible`
    is true if the channels and the filters of a group take multiples of 16 bytes, and a load takes 16 bytes. Also, the
    weight must not vary, and `can_copy_blocks` must be true for each side in `loaded`.
    """
    exact = loaded[0].dtype == torch.float32 and not tf32_allowed()
    itemsize = loaded[0].element_size()
    copied = (geometry.C // geometry.G * itemsize) % 16 == (geometry.F // geometry.G * itemsize) % 16 == 0
    blocks = copied and all(can_copy_blocks(side, geometry) for side in loaded) and not geometry.varies
    return Operands(itemsize, vector, whole, exact, geometry.varies, blocks and vector * itemsize == 16)
