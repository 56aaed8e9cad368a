"""ConvGeometry: its matrix products, FLOPs and bytes, on a problem small enough to count by hand."""

import pytest
import torch
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


@pytest.mark.parametrize("wrong", [dict(G=0), dict(G=3), dict(stride_h=0), dict(dilation_w=0)])
def test_refuses_what_is_no_convolution(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConvGeometry(**(dict(B=2, C=4, H=5, W=6, F=6, P=2, Q=5, R=3, S=2) | wrong))
