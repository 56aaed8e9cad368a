"""float16 and bfloat16: every function and implementation rounds the sum once, bias included, as torch does."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tritonconv
from tritonconv import reference
from tritonconv.bias import broadcastable

pytestmark = pytest.mark.gpu

HALF, BRAIN = torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Sum:
    """Four products of `x` and `weight`, and a bias, whose sum rounds to `rounded`."""

    x: float
    weight: float
    bias: float
    rounded: float


# Where products go beyond the range, cancel the bias or meet a tie, rounding them before the bias is added is wrong.
# The others saturate, or have a bias beside which the products vanish.
SUMS = {
    "products beyond the range": (HALF, Sum(300, 60, -60000, 12000)),
    "products and sum beyond the range": (HALF, Sum(300, 60, 1, float("inf"))),
    "bias takes the sum beyond the range": (HALF, Sum(100, 150, 6000, float("inf"))),
    "negative infinity": (HALF, Sum(300, -60, -1, -float("inf"))),
    "products that cancel the bias": (HALF, Sum(170.75, 3, -2048, 1)),
    "a bias of 60000 beside products of 10": (HALF, Sum(2.5, 1, 60000, 60000)),
    "a tie that the bias decides": (HALF, Sum(170.75, 3, 2**-10, 2050)),
    "products that cancel the bias, bfloat16": (BRAIN, Sum(13, 21, -1088, 4)),
    "a large bias, bfloat16": (BRAIN, Sum(3.25, 1, 2**20, 2**20)),
}


def layers(module: Any, x: Tensor, weight: Tensor, bias: Tensor, **more: Any) -> dict[str, Tensor]:
    """Return the result of each function of `module` for a 1x1 filter, with each shape that its bias may have."""
    shared = bias[:, 0, 0]
    local = weight.expand(2, 2, *weight.shape)
    return {
        "conv2d": module.conv2d(x, weight, shared, **more),
        "conv_transpose2d": module.conv_transpose2d(x, weight.transpose(0, 1), shared, **more),
        "local": module.locally_connected2d(x, local, bias, **more),
        "local, shared bias": module.locally_connected2d(x, local, shared, **more),
        "local transposed": module.locally_connected_transpose2d(x, local.transpose(2, 3), bias, **more),
        "local transposed, shared bias": module.locally_connected_transpose2d(
            x, local.mT.mT.transpose(2, 3), shared, **more
        ),
        "per sample": module.per_sample_conv2d(x, weight[None], shared[None], **more),
        "per sample, shared bias": module.per_sample_conv2d(x, weight[None], shared, **more),
        "dynamic": module.dynamic_conv2d(x, local[None], bias[None], **more),
        "dynamic, bias of samples": module.dynamic_conv2d(x, local[None], shared[None], **more),
        "dynamic, bias of positions": module.dynamic_conv2d(x, local[None], bias, **more),
        "dynamic, shared bias": module.dynamic_conv2d(x, local[None], shared, **more),
    }


IMPLEMENTATIONS = [
    pytest.param(reference, {}, id="reference"),
    pytest.param(tritonconv, dict(implementation="reference"), id="tritonconv-reference"),
    pytest.param(tritonconv, dict(implementation="triton"), id="tritonconv-triton"),
]


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize(("module", "more"), IMPLEMENTATIONS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # numpy's, in the interpreter
def test_a_sum_and_its_bias_are_rounded_once(name: str, module: Any, more: dict[str, Any], device: str) -> None:
    dtype, terms = SUMS[name]
    x = torch.full((1, 4, 2, 2), terms.x, device=device).to(dtype)
    weight = torch.full((3, 4, 1, 1), terms.weight, device=device).to(dtype)
    bias = torch.full((3, 2, 2), terms.bias, device=device).to(dtype)
    exact = 4 * x[0, 0, 0, 0].double() * weight[0, 0, 0, 0].double() + bias[0, 0, 0].double()
    assert exact.to(dtype).item() == terms.rounded, "the sum of the operands as they are stored"
    assert functional.conv2d(x, weight, bias[:, 0, 0]).unique().item() == terms.rounded
    for function, result in layers(module, x, weight, bias, **more).items():
        assert result.dtype == dtype
        assert result.unique().tolist() == [terms.rounded], function


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("package", [reference, tritonconv])
@pytest.mark.usefixtures("on_reference")
def test_random_sums_are_the_nearest_numbers(package: Any, dtype: torch.dtype) -> None:
    """With a bias ten times as large as the sum, nearly all results are correctly rounded.

    Rounding the sum before the bias is added makes a quarter of the results wrong. The sum in float32 is not exact, so
    a few results next to a tie may be wrong.
    """
    x, weight = torch.randn(2, 16, 9, 9).to(dtype), torch.randn(32, 16, 3, 3).div(12).to(dtype)
    bias = torch.randn(32).mul(10).to(dtype)
    varying = weight.expand(7, 7, *weight.shape)
    exact = functional.conv2d(x.double(), weight.double(), bias.double()).to(dtype)
    spread = functional.conv_transpose2d(x.double(), weight.transpose(0, 1).double(), bias.double()).to(dtype)
    for result, right in (
        (package.conv2d(x, weight, bias), exact),
        (package.conv_transpose2d(x, weight.transpose(0, 1), bias), spread),
        (package.locally_connected2d(x, varying, bias[:, None, None].expand(32, 7, 7)), exact),
        (package.per_sample_conv2d(x, weight.expand(2, *weight.shape), bias.expand(2, 32)), exact),
    ):
        assert (result != right).double().mean() < 0.001


@pytest.mark.parametrize("letters", ["", "b", "p q", "b p q"])
@pytest.mark.usefixtures("on_reference")
def test_gradients_do_not_see_the_rounding_of_the_sum(letters: str) -> None:
    """A bias, and its gradient, of every shape: gradients of the reference are those of float64, rounded once."""
    B, N, P, Q = 2, 3, 2, 2
    x, weight = torch.randn(B, 4, 3, 3).half(), torch.randn(B, P, Q, N, 4, 2, 2).half()
    bias = torch.randn(*[B] * ("b" in letters), N, *([P, Q] * ("p" in letters))).half()
    operands = [t.requires_grad_() for t in (x, weight, bias)]
    wide = [t.detach().double().requires_grad_() for t in operands]
    y = reference.dynamic_conv2d(*operands)
    gradients = torch.autograd.grad(y, operands, torch.ones_like(y))
    right = torch.autograd.grad(reference.dynamic_conv2d(*wide).sum(), wide)
    assert broadcastable(bias).ndim == len(bias.shape) + 2 * ("p" not in letters)
    for gradient, exact in zip(gradients, right, strict=True):
        assert gradient.dtype == torch.float16
        assert (gradient.double() - exact).abs().max() <= 2**-10 * exact.abs().max()
