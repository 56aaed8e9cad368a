"""The table of tolerances against what rounding does, where no kernel here can show it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tests.support.oracle import assert_close
from tritonconv.tools.tolerance import TOLERANCES, allowed, bound, errors


def cut(tensor: Tensor) -> Tensor:
    """float32 as tensor cores take it for TF32: without the lower 13 bits."""
    return (tensor.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
@pytest.mark.parametrize("channels", [1, 16, 64])
def test_tf32_without_rounding_is_within_its_tolerance(channels: int, draw: Callable[..., Tensor]) -> None:
    """And takes a third of it at least, so that there is no room for much else."""
    torch.manual_seed(0)
    x, weight = draw(2, channels, 24, 24), draw(16, channels, 3, 3)
    expected = conv2d(x.double(), weight.double())
    actual = conv2d(cut(x).double(), cut(weight).double())
    assert_close(actual, expected, "tf32")
    assert errors(actual, expected)[0] > TOLERANCES["tf32"][0] / 3


def test_tf32_without_one_tap_is_beyond_it() -> None:
    """One of 576 in one of 16 filters."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 64, 24, 24), torch.randn(16, 64, 3, 3)
    expected = conv2d(x.double(), weight.double())
    weight[3, 0, 1, 2] = 0
    with pytest.raises(AssertionError, match="allowed"):
        assert_close(conv2d(cut(x).double(), cut(weight).double()), expected, "tf32")


def test_the_bound_holds_for_any_numbers() -> None:
    """No less than for random ones, and for short sums hardly more."""
    for precision, (_, most) in TOLERANCES.items():
        assert allowed(precision, 100)[1] < bound(precision, 100) < most + 1e-5
        assert bound(precision, 10**6) > bound(precision, 10**4)
