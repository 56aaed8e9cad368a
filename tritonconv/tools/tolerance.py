"""How far a result may be from float64: one table for the tests, the benchmark and `tritonconv.verify`."""

from math import sqrt

import torch
from torch import Tensor

# RMS and maximum of the relative error. The floor is the error of a correct kernel, which accumulates in float32. For
# 16-bit types it then rounds once at the end. Floors hardly depend on the length of the sum. A tolerance is about twice
# its floor. The RMS alone would not notice one wrong border pixel in bfloat16, but the maximum does.
#              allowed RMS, max   floor RMS, max
TOLERANCES = {
    "float64": (1e-14, 1e-13),
    "float32": (5e-7, 3e-6),  # 2.4e-7, 1.5e-6
    # Triton passes float32 to the tensor cores unrounded, and they drop the lower 13 bits. These floors were computed
    # for operands that are cut in this way. With rounded operands they would be 2.9e-4 and 1.7e-3.
    "tf32": (1.6e-3, 6e-3),  # 7.9e-4, 2.7e-3
    "float16": (4e-4, 1e-3),  # 2.1e-4, 4.9e-4
    "bfloat16": (3.4e-3, 8e-3),  # 1.7e-3, 3.9e-3
    "bfloat16 cut": (
        6.8e-3,
        1.6e-2,
    ),  # Triton's interpreter drops lower bits instead of rounding: twice the error
}


def allowed(precision: str, products: int, looser: float = 1) -> tuple[float, float]:
    """Return the RMS and the maximum of the relative error that are allowed for sums of `products` products.

    `errors` measures these two. The allowed values are `TOLERANCES[precision]`, multiplied by `looser`. On top of that,
    a sum in float32 may drift by 2^-24 sqrt(products), because rounding is a random walk with one step for each
    product. The maximum gets 5 times the drift. For the small problems of the tests the drift is negligible.
    """
    rms, most = TOLERANCES[precision]
    drift = 2**-24 * sqrt(products)
    return looser * rms + drift, looser * most + 5 * drift


def bound(precision: str, products: int) -> float:
    """Return the relative error that is allowed for an element that is a sum of `products` products of any values.

    The error is relative to the element, or to the root of the sum of its squared products if that root is larger.

    The bound is the maximum that `allowed` returns, plus a term for products of equal signs. With equal signs, each
    addition may err to the same side. Tensor cores always do, and add at least eight products at a time.
    """
    additions = products if precision == "float32" else products / 8
    return allowed(precision, products)[1] + 2**-25 * additions


def errors(actual: Tensor, expected: Tensor, scale: float = 1e-30) -> tuple[float, float]:
    """Return RMS(a-e)/RMS(e) and the largest |a-e|/max(RMS(e), |e|), for a = `actual` and e = `expected`.

    RMS(e) counts as `scale` if it is smaller. Both errors are 0 for empty tensors. They are computed in float64 or
    complex128.
    """
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.numel() == 0:
        return 0.0, 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, difference = expected.to(wide), (actual.to(wide) - expected.to(wide)).abs()
    rms = expected.abs().square().mean().sqrt().clamp(min=scale)
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()
