"""ConvGeometry: its matrix products, FLOPs and bytes, on a problem small enough to count by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import conv_transpose2d
from torch.utils.flop_counter import FlopCounterMode

import tritonconv
from tritonconv.geometry import ConvGeometry, Gemm

pytestmark = pytest.mark.first

# 2 images of 4 channels, 5 x 6 pixels; 6 filters of 3 x 2 taps in 2 groups; 2 x 5 positions.
GEOMETRY = ConvGeometry(B=2, C=4, H=5, W=6, F=6, P=2, Q=5, R=3, S=2, G=2, stride_h=2)


def test_shapes() -> None:
    assert GEOMETRY.image_shape == (2, 4, 5, 6)
    assert GEOMETRY.weight_shape == (6, 2, 3, 2)
    assert GEOMETRY.feature_shape == (2, 6, 2, 5)


def test_the_three_matrix_products() -> None:
    assert GEOMETRY.gemm("fprop") == Gemm(M=20, N=3, K=12, G=2)
    assert GEOMETRY.gemm("dgrad") == Gemm(M=60, N=2, K=18, G=2)
    assert GEOMETRY.gemm("wgrad") == Gemm(M=3, N=12, K=20, G=2)


def test_flops_and_bytes() -> None:
    assert GEOMETRY.flops == 2 * 20 * 3 * 12 * 2
    assert GEOMETRY.minimal_bytes(itemsize=2) == 2 * (240 + 72 + 120)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_torch_counts_the_same_flops(name: str, groups: int) -> None:
    """Forward and backward have as many FLOPs as torch counts, also where it counts too many: for wgrad with groups."""
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    counts = []
    for module in (tritonconv, torch.nn):
        layer = getattr(module, name)(4, 6, (3, 2), stride=2, groups=groups)
        with tritonconv.using("reference"), FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


# 2 images of 4 x 3 pixels, where each position sees its own pixel.
POINTWISE = ConvGeometry(B=2, C=4, H=4, W=3, F=6, P=4, Q=3, R=1, S=1)


@pytest.mark.parametrize(
    "other",
    [
        *(dict(R=2), dict(S=2), dict(stride_h=2), dict(stride_w=2)),
        *(dict(pad_h=1), dict(pad_w=1), dict(pad_h=1, pad_w=1)),
        *(dict(H=5), dict(P=5), dict(W=4), dict(Q=4), dict(H=3, W=4)),
        *(dict(varies="b"), dict(varies="p q")),
    ],
    ids=str,
)
def test_pointwise(other: dict[str, Any]) -> None:
    """Each condition is needed: with any one number changed, it is no plain matrix product."""
    assert POINTWISE.pointwise
    assert replace(POINTWISE, G=2, dilation_h=3, dilation_w=2).pointwise
    assert not replace(POINTWISE, **other).pointwise


def test_a_padded_convolution_of_single_taps_is_not_pointwise() -> None:
    """Both sides are as large as each other, and still each position sees another pixel than its own."""
    x, weight = (torch.randint(-2, 3, size).float() for size in ((1, 4, 3, 3), (4, 5, 1, 1)))
    how: dict[str, Any] = dict(padding=1, dilation=3, output_padding=2)
    wanted = conv_transpose2d(x, weight, **how)
    assert wanted.shape[-2:] == x.shape[-2:]
    if torch.cuda.is_available():
        x, weight = x.cuda(), weight.cuda()
    assert torch.equal(tritonconv.conv_transpose2d(x, weight, **how, implementation="triton").cpu(), wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(G=0), dict(stride_h=0), dict(stride_w=0), dict(dilation_h=0), dict(dilation_w=0)),
        *(dict(G=3), dict(C=3, G=2), dict(F=3, G=2), dict(varies="p")),
    ],
    ids=str,
)
def test_refuses_what_is_no_convolution(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConvGeometry(**(dict(B=2, C=4, H=5, W=6, F=6, P=2, Q=5, R=3, S=2) | wrong))
