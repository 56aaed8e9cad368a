"""`tritonconv.verify` finds faults that are put into right results, also those near the largest number of a dtype."""

from math import inf, nan, sqrt

import pytest
import torch

from tritonconv.tools.tolerance import bound
from tritonconv.tools.verify import deviation

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# The largest number of each dtype, and the least number that rounds to infinity: half a step further.
LARGEST = {"float16": 65504.0, "bfloat16": 2.0**128 - 2.0**120, "float32": 2.0**128 - 2.0**104}
BEYOND = {"float16": 65520.0, "bfloat16": 2.0**128 - 2.0**119, "float32": 2.0**128 - 2.0**103}
ONCE = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}  # the relative error of one rounding
EACH = pytest.mark.parametrize("dtype", DTYPES)


def accepted(dtype: str, result: float, expected: float, scale: float | None = None, products: int = 400) -> bool:
    """Whether `verify` accepts this result. Without a scale it is that of equal products."""
    scale = abs(expected) / sqrt(products) if scale is None else scale
    given = [torch.tensor([value], dtype=torch.float64) for value in (result, expected, scale)]
    rounded = given[0].to(DTYPES[dtype])
    assert rounded.isnan().item() or rounded.item() == result, "the dtype does not hold the result"
    both = (deviation(sign * rounded, sign * given[1], given[2], products) for sign in (1, -1))
    first, second = (found <= bound(dtype, products) for found in both)
    assert first == second, "the sign of all numbers decides"
    return first


@EACH
def test_at_the_largest_number(dtype: str) -> None:
    """A number that rounds to infinity must become infinite, and a smaller one must not, but for the allowed error."""
    largest, beyond, most = LARGEST[dtype], BEYOND[dtype], bound(dtype, 400)
    assert most > ONCE[dtype], "one rounding is allowed"
    assert accepted(dtype, largest, largest)
    assert accepted(dtype, largest, beyond)
    assert accepted(dtype, largest, largest * (1 + 0.99 * most))
    assert not accepted(dtype, largest, largest * (1 + 1.01 * most))
    assert accepted(dtype, inf, beyond)
    assert accepted(dtype, inf, largest)
    assert accepted(dtype, inf, beyond * (1 - 0.99 * most))
    if dtype == "float16":  # else the sum is so near to the end of float32's range that it may leave it
        assert not accepted(dtype, inf, beyond * (1 - 1.01 * most))


@EACH
@pytest.mark.parametrize("times", [1.1, 16, 1e4])
def test_what_is_right_as_infinity(dtype: str, times: float) -> None:
    """Only infinity of the same sign is right: not the largest number, nor a smaller one, nor NaN."""
    expected = times * BEYOND[dtype]
    assert accepted(dtype, inf, expected)
    largest = LARGEST[dtype]
    for result in (largest, 0.5 * largest, 1.0, 0.0, -1.0, -largest):
        assert not accepted(dtype, result, expected), result
    if times < 100 or dtype == "float16":
        assert not accepted(dtype, -inf, expected)
        assert not accepted(dtype, nan, expected)


@EACH
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.25, 0.49, 0.97])
def test_what_is_right_as_a_number(dtype: str, share: float) -> None:
    """Neither infinity nor NaN is right, nor is the largest number of either sign."""
    expected = torch.tensor(share * LARGEST[dtype]).to(DTYPES[dtype]).double().item()
    assert accepted(dtype, expected, expected)
    for result in (-inf, nan, LARGEST[dtype], -LARGEST[dtype]):
        assert not accepted(dtype, result, expected), result
    if share < 0.5 or dtype == "float16":
        assert not accepted(dtype, inf, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sums_that_may_leave_the_range_of_float32(dtype: str) -> None:
    """Infinity is right if the products of its sign may leave the range, and NaN if those of both signs may.

    The magnitudes of all products are at most 1e39 together, except where another number is given.
    """
    for result in (inf, -inf, nan):
        assert accepted(dtype, result, 0.0, 1e38, 99)
        assert accepted(dtype, result, 6e38, 1e38, 99)
        assert accepted(dtype, result, 0.0, 2.9e38, 1), "a bias is one term more"
        assert not accepted(dtype, result, 0.0, 1e38, 4), "the products are at most 3e38 together"
        assert not accepted(dtype, result, 0.0, 3e37, 99), "the products are at most 3e38 together"
    for result in (-inf, nan):
        assert not accepted(dtype, result, 8e38, 1e38, 99), "negative products are at most 1e38"
    for result in (0.0, LARGEST[dtype], -LARGEST[dtype]):
        assert not accepted(dtype, result, 8e38, 1e38, 99), "a finite number is never right"


@EACH
def test_infinity_counts_as_the_nearest_number_that_rounds_to_it(dtype: str) -> None:
    """So its deviation is a number, and verify's message can state it."""
    for times, found in ((-0.25, 5), (0.25, 3), (-2, 1.5), (2, 0)):
        expected = torch.tensor([times * BEYOND[dtype]], dtype=torch.float64)
        assert deviation(torch.tensor([inf], dtype=DTYPES[dtype]), expected, 0 * expected, 1) == pytest.approx(found)


def test_sums_that_cancel() -> None:
    """The error is relative to the sum, or to the root of its squared products if that is larger."""
    given = [torch.tensor([value], dtype=torch.float64) for value in (100.0, 10.0, 1000.0)]
    assert deviation(torch.tensor([101.0]), given[0], given[1], 100) == 0.01
    assert deviation(torch.tensor([110.0]), given[0], given[2], 100) == 0.01
    assert deviation(torch.tensor([-100.0]), given[0], given[1], 100) == 2
    assert accepted("float32", 2.0**-20, 0.0, 1.0, 2)
    assert not accepted("float32", 2.0**-17, 0.0, 1.0, 2)
    assert accepted("float32", 2.0**-20, -(2.0**-20), 1.0, 2)
    assert not accepted("float16", -1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "result", "expected", "scale", "products"),
    [
        ("float32", 0.0, 0.0, 0.0, 0),  # no products at all
        ("float32", 0.0, 2.0**-126, 2.0**-126, 1),  # a GPU may flush what is below the normal numbers
        ("float32", 0.0, 2.0**-113, 2.0**-120, 2**14),  # each product is half the least normal number
        ("float32", 2.0**-149, 2.0**-150, 2.0**-150, 1),
        ("float16", 0.0, 2.0**-25, 2.0**-25, 1),
        ("float16", 2.0**-24, 2.0**-25, 2.0**-25, 1),
        ("bfloat16", 0.0, 2.0**-134, 2.0**-134, 1),
    ],
)
def test_products_that_underflow(dtype: str, result: float, expected: float, scale: float, products: int) -> None:
    """The right result may be lost. The same error of what is not so small is found."""
    assert accepted(dtype, result, expected, scale, products)
    larger = 2.0**24
    assert not accepted(dtype, result, max(expected, 2.0**-149) * larger, scale * larger, products)


def test_one_wrong_element_among_many() -> None:
    """The largest deviation is returned, NaN before any number, and nothing hides it."""
    expected = torch.tensor([[0.0, 1e6, 1e39], [-1e6, 2.0, 65504.0]], dtype=torch.float64)
    scale = expected.abs().clamp(min=1)
    right = expected.half()
    assert deviation(right, expected, scale, 1) == 0
    for place in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        for wrong in (nan, 1000.0):
            spoilt = right.clone()
            spoilt[place] = wrong
            found = deviation(spoilt, expected, scale, 1)
            assert found != found if wrong != wrong else found > 0.9


@pytest.mark.parametrize("shape", [(0,), (0, 3, 2, 2), (1, 0, 2, 2)])
def test_nothing_deviates_by_nothing(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape)
    assert deviation(empty, empty.double(), empty.double(), 9) == 0.0
    assert deviation(empty, empty.double(), empty.double(), 0) == 0.0
