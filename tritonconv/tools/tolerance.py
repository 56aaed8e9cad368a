"""How far from float64 a result may be: one table, for the tests, the benchmark and `tritonconv.verify`."""

from math import sqrt

import torch
from torch import Tensor

# RMS and maximum of the relative error. The floors are what a correct kernel shows: one rounding at the end for the
# 16-bit types, accumulation in float32 before it; they hardly move with the length of the reduction. A tolerance is
# about twice its floor. RMS alone would not see one wrong border pixel in bfloat16, the maximum does.
#              allowed RMS, max   floor RMS, max
TOLERANCES = {
    "float64": (1e-14, 1e-13),
    "float32": (5e-7, 3e-6),  # 2.4e-7, 1.5e-6
    # Triton hands float32 to the tensor cores as it is, and they drop the lower 13 bits instead of rounding. Floors of
    # operands cut in that way, computed: with rounded ones they would be 2.9e-4 and 1.7e-3.
    "tf32": (1.6e-3, 6e-3),  # 7.9e-4, 2.7e-3
    "float16": (4e-4, 1e-3),  # 2.1e-4, 4.9e-4
    "bfloat16": (3.4e-3, 8e-3),  # 1.7e-3, 3.9e-3
    "bfloat16 cut": (6.8e-3, 1.6e-2),  # Triton's interpreter drops the lower bits instead of rounding: twice as much
}


def allowed(precision: str, products: int, looser: float = 1) -> tuple[float, float]:
    """RMS and maximum that a sum of so many products may be off by: the table's, made `looser` by a factor.

    On top of that, a sum in float32 may drift by 2^-24 sqrt(products): a random walk of one rounding each, which for
    the tests' small problems is nothing.
    """
    rms, most = TOLERANCES[precision]
    drift = 2**-24 * sqrt(products)
    return looser * rms + drift, looser * most + 5 * drift


def bound(precision: str, products: int) -> float:
    """What any element of a sum of so many products may be off by, whatever they are: relative to the element, or to
    the root of the sum of its squared products, if that is larger.

    The table's maximum, the drift of `allowed`, and what equal signs add to it: then each addition may err to the same
    side, and tensor cores, which add eight products at a time or more, always do.
    """
    additions = products if precision == "float32" else products / 8
    return allowed(precision, products)[1] + 2**-25 * additions


def errors(actual: Tensor, expected: Tensor, scale: float = 1e-30) -> tuple[float, float]:
    """RMS(a-e)/RMS(e), and the largest |a-e|/max(RMS(e), |e|), where RMS(e) is taken to be `scale` at least."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.numel() == 0:
        return 0.0, 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, difference = expected.to(wide), (actual.to(wide) - expected.to(wide)).abs()
    rms = expected.abs().square().mean().sqrt().clamp(min=scale)
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()
