"""The tolerances fit the rounding of TF32, which is simulated here because it needs a GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tests.support.oracle import assert_close
from tritonconv.tools.tolerance import TOLERANCES, allowed, bound, errors


def cut(tensor: Tensor) -> Tensor:
    """Return float32 as tensor cores read it for TF32: without the lower 13 bits."""
    return (tensor.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
@pytest.mark.parametrize("channels", [1, 16, 64])
def test_tf32_without_rounding_is_within_its_tolerance(channels: int, draw: Callable[..., Tensor]) -> None:
    """The error is also at least a third of the tolerance, so that little else fits into it."""
    torch.manual_seed(0)
    x, weight = draw(2, channels, 24, 24), draw(16, channels, 3, 3)
    expected = conv2d(x.double(), weight.double())
    actual = conv2d(cut(x).double(), cut(weight).double())
    assert_close(actual, expected, "tf32")
    assert errors(actual, expected)[0] > TOLERANCES["tf32"][0] / 3


def test_tf32_without_one_tap_is_beyond_it() -> None:
    """One of 576 taps is missing, in one of 16 filters."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 64, 24, 24), torch.randn(16, 64, 3, 3)
    expected = conv2d(x.double(), weight.double())
    weight[3, 0, 1, 2] = 0
    with pytest.raises(AssertionError, match="allowed"):
        assert_close(conv2d(cut(x).double(), cut(weight).double()), expected, "tf32")


def test_the_bound_holds_for_any_numbers() -> None:
    """The bound is never less than the maximum for random numbers, and hardly more for short sums."""
    for precision, (_, most) in TOLERANCES.items():
        assert allowed(precision, 100)[1] < bound(precision, 100) < most + 1e-5
        assert bound(precision, 10**6) > bound(precision, 10**4)
