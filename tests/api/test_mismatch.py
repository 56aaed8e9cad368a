"""Which deviations `tritonconv.verify` reports as wrong, and which it accepts as rounding."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.operators.compute import compute
from tritonconv.tools.verify import mismatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning"),  # numpy's, from the interpreter
]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 300.0, 3e4])
def test_the_ends_of_float16_are_no_mismatch(scale: float, device: str) -> None:
    """Some results are subnormal numbers of float16, and some overflow it."""
    input, weight, _ = Case("ends", channels=(16, 8)).operands(torch.float16, device)
    with tritonconv.verify(1) as seen:
        y = tritonconv.conv2d(
            input.clamp(-2, 2) * scale, weight * min(scale, 1.0) ** 0.2, None, implementation="triton"
        )
    assert seen.checked == 1
    assert (scale < 1e4) or y.isinf().any()


def test_sums_that_cancel_are_no_mismatch(device: str) -> None:
    """Each image is subtracted from itself, so the rounding errors are large relative to the expected zeros."""
    x = torch.randn(2, 8, 6, 6, device=device)
    weight = torch.randn(4, 4, 3, 3, device=device)
    with tritonconv.verify(1) as seen:
        tritonconv.conv2d(torch.cat([x[:, :4], x[:, :4]], 1), torch.cat([weight, -weight], 1), implementation="triton")
    assert seen.checked == 1


def rounded(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return fprop without padding and with a stride of 1, computed in float64 and rounded once to `dtype`."""
    return torch.nn.functional.conv2d(x.double(), weight.double()).to(dtype)


def test_few_results_are_no_mismatch(device: str) -> None:
    """With one result for each image, an error of half a unit in the last place exceeds the usual RMS."""
    geometry = ConvGeometry(64, 128, 4, 4, 1, 1, 1, 4, 4)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, weight = (torch.randn(n, 128, 4, 4, generator=generator).to(device, torch.float16) for n in (64, 1))
        assert mismatch(Call.of_geometry("fprop", geometry, (x, weight)), [rounded(x, weight, x.dtype)]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bright_pixel_neither_alarms_nor_blinds(dtype: torch.dtype, device: str) -> None:
    """Pixels that do not see the bright one are compared relative to their own size."""
    geometry = ConvGeometry(1, 4, 32, 32, 6, 30, 30, 3, 3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 32, 32, generator=generator).to(device, dtype)
    weight = torch.randn(6, 4, 3, 3, generator=generator).to(device, dtype)
    x[0, 0, 0, 0] = 1e6
    right = rounded(x, weight, dtype)
    assert mismatch(Call.of_geometry("fprop", geometry, (x, weight)), [right]) is None
    spoilt = right.clone()
    spoilt[0, 2, 20, 20] += 0.5
    assert "fprop in" in str(mismatch(Call.of_geometry("fprop", geometry, (x, weight)), [spoilt]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_beyond_float32_are_no_mismatch(dtype: torch.dtype, device: str) -> None:
    """Finite numbers may overflow float32 to infinity or NaN, as in torch.nn. A result in range must be finite."""
    x, weight = torch.full((1, 2, 4, 4), 1e20, dtype=dtype), torch.full((2, 2, 1, 1), 1e20, dtype=dtype)
    weight[0, 1] *= -1
    with tritonconv.verify(1) as seen:
        y = tritonconv.conv2d(x.to(device), weight.to(device), implementation="triton")
    assert seen.checked == 1
    assert not y.isfinite().any()
    small = x[:, :, :2, :2] * 1e-20
    result = torch.full((1, 2, 2, 2), float("inf"), dtype=dtype)
    call = Call.of_geometry("fprop", ConvGeometry(1, 2, 2, 2, 2, 2, 2, 1, 1), (small, weight * 1e-20))
    assert mismatch(call, [result]) is not None


def test_long_sums_of_one_sign_are_no_mismatch() -> None:
    """Added one after another in float32, they are always rounded to the same side."""
    x, y = torch.full((1, 1, 256, 256), 0.1), torch.full((1, 1, 256, 256), 0.3)
    products = (x * y).numpy().ravel()
    weight = torch.tensor(np.cumsum(products, dtype=np.float32)[-1]).view(1, 1, 1, 1)
    geometry = ConvGeometry(1, 1, 256, 256, 1, 256, 256, 1, 1)
    assert abs(weight.item() / (0.03 * 256**2) - 1) > 1e-5
    call = Call.of_geometry("wgrad", geometry, (x, y))
    assert mismatch(call, [weight]) is None
    assert mismatch(call, [weight * 1.003]) is not None


def test_one_wrong_number_is_a_mismatch(device: str) -> None:
    """One pixel in bfloat16 is 3 % too large, NaN, infinite or zero, as if it had not been written."""
    geometry = ConvGeometry(2, 4, 8, 8, 6, 6, 6, 3, 3)
    x, weight = torch.randn(2, 4, 8, 8, device=device).bfloat16(), torch.randn(6, 4, 3, 3, device=device).bfloat16()
    call = Call.of_geometry("fprop", geometry, (x, weight), channels_last=False, implementation="reference")
    (right,) = compute(call)
    check = partial(mismatch, call)
    assert check([right]) is None
    for wrong in (float(right.amax()) * 1.03, float("nan"), float("inf"), 0.0):
        spoilt = right.clone()
        spoilt.view(-1)[right.argmax()] = wrong
        assert "fprop in bfloat16" in str(check([spoilt]))
