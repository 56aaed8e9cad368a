"""The arguments of kernels, and what Triton compiles for them, each condition alone, on tensors without data."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.oracle import convolution_precision
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import kernel_arguments
from tritonconv.launch.kernel_arguments import (
    described_operands,
    gather_arguments,
    kernel_bias,
    tap_arguments,
    tile_arguments,
)
from tritonconv.launch.plan import Copies, Launch, compiled_for
from tritonconv.tiling.tile import Operands, Tile

pytestmark = pytest.mark.first

TILE = Tile(16, 16, 16, 4, 3)
PLAIN = ConvGeometry(B=2, C=16, H=4, W=5, F=24, P=4, Q=5, R=1, S=1)


def side(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return a side of this shape, without data, in channels_last if no strides are given."""
    _, C, H, W = shape
    return torch.empty_strided(shape, strides or (H * W * C, 1, W * C, C), dtype=dtype, device="meta")


def taps(R: int, S: int, vector: int = 8, strides: tuple[int, ...] = (1, 1, 1, 1), **sampling: int) -> dict[str, Any]:
    geometry = ConvGeometry(1, 8, 1, 1, 8, 1, 1, R, S, **sampling)
    return tap_arguments(geometry, side((1, 8, 1, 1), strides), vector, TILE)


@pytest.mark.parametrize(
    ("R", "S", "vector", "axes"),
    [
        (1, 31, 8, 2),
        (31, 1, 8, 2),
        (4, 8, 8, 1),  # 32 taps
        (1, 31, 2, 1),  # narrow loads
        (3, 3, 1, 1),
        (31, 31, 1, 1),
        (32, 1, 8, 0),
        (1, 32, 8, 0),
        (1, 32, 1, 0),
    ],
)
def test_where_kernels_remember_taps(R: int, S: int, vector: int, axes: int) -> None:
    assert taps(R, S, vector)["AXES_PER_INTEGER"] == axes


@pytest.mark.parametrize(
    ("R", "S", "strides", "sampling", "wide"),
    [
        (2, 1, (0, 1, 2**29 - 4, 0), dict(dilation_h=2), True),  # 2^31 - 16, and 16 channels
        (2, 1, (0, 1, 2**29 - 5, 0), dict(dilation_h=2), False),
        (2, 1, (0, 0, 2**29 - 4, 4), dict(dilation_h=2, dilation_w=4), True),
        (2, 1, (0, 0, 2**29 - 4, 4), dict(dilation_h=2, dilation_w=3), False),
        (1, 2, (0, 1, 0, 2**29), dict(dilation_w=2), True),
        (1, 2, (0, 1, 0, 2**29 - 5), dict(dilation_w=2), False),
        (1, 1, (0, 2**27, 0, 0), {}, True),
        (1, 1, (0, 2**27 - 1, 0, 0), {}, False),
    ],
)
def test_when_a_step_is_wide(R: int, S: int, strides: tuple[int, ...], sampling: dict[str, int], wide: bool) -> None:
    """A step may go from the first tap to the last and one further, and by BLOCK_K channels: 2^31 elements or more."""
    assert taps(R, S, strides=strides, **sampling)["WIDE_STEPS"] is wide


def test_biases() -> None:
    """A bias that does not vary is made contiguous. One that varies is not, and must vary no further than the weight.

    Only a tile of few rows gives its number of stages.
    """
    strided = torch.arange(8.0)[::2]
    assert torch.equal(kernel_bias(strided, PLAIN), strided)
    assert kernel_bias(strided, PLAIN).stride() == (1,)
    assert kernel_bias(strided.contiguous(), PLAIN).data_ptr() != strided.data_ptr()
    local = ConvGeometry(2, 16, 4, 5, 24, 4, 5, 1, 1, varies="b p q")
    varying = torch.empty(48, 2)[:, 0].view(2, 24)
    assert kernel_bias(varying, local) is varying
    for bias, letters in ((varying, "'b'"), (torch.empty(24, 4, 5), "'p q'")):
        with pytest.raises(ValueError, match=f"the bias varies over {letters}, and the weight only over ''"):
            kernel_bias(bias, PLAIN)
    few = Tile(8, 16, 16, 4, 3)
    x = side((2, 16, 4, 5))
    shape = PLAIN.feature_shape
    for bias, varies in ((None, False), (torch.empty(24), False), (varying, True)):
        for tile, stages in ((TILE, None), (few, 3)):
            given = gather_arguments(PLAIN, x, 8, bias, shape, tile)
            assert given["BIAS_VARIES"] is varies
            assert given["STAGES"] == stages
    assert given["stride_bias_b"] == varying.stride(0)
    assert (given["stride_bias_n"], given["stride_bias_h"], given["stride_bias_w"]) == (varying.stride(1), 0, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_what_is_multiplied(dtype: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is for float32, where torch allows it. The interpreter multiplies in float32, a GPU in the operands' dtype.

    A float32 problem is exact if TF32 is not allowed.
    """
    import triton.language as tl

    operand = side((2, 16, 4, 5), dtype=getattr(torch, dtype))
    with convolution_precision(setting):
        for interpreted, multiplied in ((True, tl.float32), (False, getattr(tl, dtype))):
            monkeypatch.setattr(kernel_arguments, "interpreted", lambda answer=interpreted: answer)
            given = tile_arguments(operand, TILE)
            assert given["DOT_DTYPE"] == multiplied
            assert given["PRECISION"] == ("tf32" if (dtype, setting) == ("float32", "tf32") else "ieee")
        described = described_operands(PLAIN, 16 // operand.element_size(), True, operand)
    assert described.exact == ((dtype, setting) == ("float32", "ieee"))


@pytest.mark.parametrize(
    ("sizes", "possible"),
    [
        ({}, True),
        (dict(C=12), False),
        (dict(F=12), False),
        (dict(C=12, F=12), False),  # 8 bytes remain of both
        (dict(C=12, F=20), False),
        (dict(C=48, F=32, G=2), True),
        (dict(C=24, F=32, G=2), False),
        (dict(varies="b"), False),
    ],
)
def test_what_tma_copies(sizes: dict[str, Any], possible: bool) -> None:
    """TMA copies 16 bytes or more, from sides whose strides it can describe."""
    geometry = ConvGeometry(**dict(B=2, C=16, H=4, W=5, F=24, P=4, Q=5, R=1, S=1) | sizes)
    x, y = side(geometry.image_shape), side(geometry.feature_shape)
    described = described_operands(geometry, 8, True, x, y)
    assert described == Operands(2, 8, True, False, geometry.varies, tma_possible=possible)
    assert not described_operands(geometry, 2, False, x, y).tma_possible
    assert not described_operands(geometry, 2, False, x, y).whole_stores
    expanded = x[:1].expand_as(x)
    for sides in ((expanded, y), (y, expanded)):
        assert not described_operands(geometry, 8, True, *sides).tma_possible


@pytest.mark.parametrize(
    ("name", "value", "compiled"),
    [
        ("stride_xb", 2**31 - 1, "i32"),
        ("stride_xb", 2**31, "i64"),
        ("B", 3, "i32"),  # one capital
        ("BLOCK_M", 3, 3),
        ("num_warps", 3, 3),
        ("launch_pdl", True, True),
        ("groups", 3, "i32"),
        ("STAGES", None, None),
        ("bias_ptr", None, None),
    ],
)
def test_what_triton_compiles_for(name: str, value: Any, compiled: Any) -> None:
    assert compiled_for(name, value) == compiled
    assert Launch(test_what_triton_compiles_for, 1, {name: value}).variant == (
        "test_what_triton_compiles_for",
        (name, compiled),
    )


def test_alignment_is_compiled_but_for_a_bias() -> None:
    memory = torch.empty(64, dtype=torch.bfloat16)
    assert memory.data_ptr() % 16 == 0
    for start, aligned in ((0, True), (4, False), (8, True)):
        assert compiled_for("x_ptr", memory[start:]) == ("torch.bfloat16", aligned)
        assert compiled_for("bias_ptr", memory[start:]) == ("torch.bfloat16", True)


def test_copies_are_remembered() -> None:
    """What lies elsewhere than the operand is a copy. A view of it is none."""
    copies, operand = Copies(), torch.arange(6.0)
    assert copies.lay(operand, lambda each: each) is operand
    assert copies.lay(operand, lambda each: each.view(2, 3)).shape == (2, 3)
    assert copies == []
    lying = copies.lay(operand, torch.clone)
    assert [(copy is lying, original is operand) for copy, original, _ in copies] == [(True, True)]
