"""`Call`, one call of an operator as a value, and the functions for the bias that a call adds or finds."""

import pytest
import torch

from tests.support.oracle import assert_close
from tests.support.plans import call_of, meta_factors
from tritonconv import bias
from tritonconv.call import OPERATOR_NAMES, Call
from tritonconv.geometry import LEAVES_OUT, OPERATORS, TAKES, VARIES, ConvGeometry, Factor
from tritonconv.operators.library import torch_operators
from tritonconv.settings import Settings, to_text

GEOMETRY = ConvGeometry(
    *(2, 6, 9, 8, 4, 4, 5, 3, 2), G=2, stride_h=2, stride_w=1, pad_h=0, pad_w=1, dilation_h=1, dilation_w=3
)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_the_arguments_of_a_call_give_it_again(name: str) -> None:
    operator = name.removesuffix("_with_bias")
    finds_bias = name == "wgrad_with_bias"
    call = call_of(operator, GEOMETRY, meta_factors(GEOMETRY), finds_bias=finds_bias, channels_last=False)
    assert call.name == name
    again = Call(name, call.arguments)
    assert (again.geometry, again.settings, again.factors) == (GEOMETRY, call.settings, call.factors)
    assert len(call.arguments) == len(getattr(torch_operators, name).default._schema.arguments)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("varies", VARIES)
def test_settings_survive_torchs_arguments(varies: str, channels_last: bool, implementation: str) -> None:
    """Each number is another one, so that none can take another's place."""
    settings = Settings((11, 12), (1, 2), (0, 3), (4, 5), 6, varies, channels_last, implementation)
    *numbers, text = settings.packed
    assert numbers == [11, 12, 0, 3, 6]
    assert text.startswith("stride=1,2 dilation=4,5 ")
    assert Settings.unpacked(*settings.packed) == settings
    assert text == to_text((1, 2), (4, 5), varies, channels_last, implementation)


def test_settings_that_are_equal_have_the_same_text() -> None:
    assert Settings((1, 1), (1, 1), (0, 0), (1, 1), 1, "", 1, "auto").packed[-1].count("channels_last=True") == 1  # type: ignore[arg-type]
    assert Settings((1, 1), (1, 1), (0, 0), (1, 1), 1, "", True, "auto").packed[-1].count("channels_last=True") == 1


@pytest.mark.parametrize("varies", VARIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_gradient_of_each_factor_is_a_call_of_the_same_geometry(operator: str, varies: str) -> None:
    geometry = ConvGeometry(*(2, 6, 9, 8, 4, 4, 5, 3, 2), stride_h=2, pad_w=1, dilation_w=2, varies=varies)
    factors = meta_factors(geometry)
    call = call_of(operator, geometry, factors, implementation="reference")
    for factor in TAKES[operator]:
        gradient = call.of_gradient(factor, factors[LEAVES_OUT[operator]])
        assert LEAVES_OUT[gradient.operator] == factor
        assert (gradient.geometry, gradient.settings.implementation) == (geometry, "reference")
        assert gradient.result_shape == factors[factor].shape


def test_a_call_without_data_is_for_the_device_of_the_call() -> None:
    x, weight, added = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), torch.ones(4)
    call = Call.of_geometry("fprop", ConvGeometry(1, 2, 3, 3, 4, 3, 3, 1, 1), (x, weight), added)
    without = call.without_data()
    assert {each.device.type for each in (*without.factors, without.bias)} == {"meta"}
    assert (without.device, without.geometry) == (torch.device("cpu"), call.geometry)


def test_calls_that_there_are_not() -> None:
    geometry = ConvGeometry(2, 2, 3, 3, 4, 3, 3, 1, 1)
    factors = meta_factors(geometry)
    with pytest.raises(ValueError, match="wgrad adds no bias"):
        call_of("wgrad", geometry, factors, torch.ones(4))
    with pytest.raises(ValueError, match="fprop does not find the gradient of a bias"):
        call_of("fprop", geometry, factors, finds_bias=True)
    varying = ConvGeometry(2, 2, 3, 3, 4, 3, 3, 1, 1, varies="b")
    with pytest.raises(ValueError, match="wgrad_with_bias is for a weight that does not vary"):
        call_of("wgrad", varying, meta_factors(varying), finds_bias=True)


@pytest.mark.parametrize("letters", bias.LETTERS.values())
def test_a_bias_beside_a_result(letters: str) -> None:
    """A bias is added to each sample and pixel over which it does not vary. Its gradient is the sum over them."""
    result = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    shape = bias.shape_beside(result.shape, letters)
    assert bias.letters_of(torch.empty(shape)) == letters
    added = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(result + bias.broadcastable(added), added, result)
    assert_close(bias.sum_for(letters, result), expected, "float64")


@pytest.mark.parametrize("dims", [0, 5])
def test_what_is_no_bias_is_refused(dims: int) -> None:
    with pytest.raises(ValueError, match="a bias has 1 to 4 dimensions"):
        bias.broadcastable(torch.ones([1] * dims))


def test_factors_by_operator() -> None:
    factors: set[Factor] = {"x", "weight", "y"}
    for operator in OPERATORS:
        assert {*TAKES[operator], LEAVES_OUT[operator]} == factors
