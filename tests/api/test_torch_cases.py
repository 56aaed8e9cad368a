"""PyTorch's own test cases for its convolutions, from the tables of its test suite."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.oracle import assert_close, convolution_precision
from tritonconv import reference

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, from the imports of its test suite
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db
    from torch.testing._internal.common_nn import get_new_module_tests

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's own, from its cases
]

# The reference is compared in float64, the kernels in float32.
IMPLEMENTATIONS = {"reference": (reference, "reference"), "triton": (tritonconv, "triton")}


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Any:
    """The name of each implementation, which runs the test's calls, with TF32 switched off."""
    with tritonconv.using(request.param), convolution_precision("ieee"):
        yield request.param


def dtype_of(implementation: str) -> torch.dtype:
    return torch.float64 if implementation == "reference" else torch.float32


def package(implementation: str) -> Any:
    return reference if implementation == "reference" else tritonconv


def leaves(values: Any, wide: bool = False) -> Any:
    """Return the same arguments, with each tensor copied to a leaf that requires a gradient, in float64 if `wide`.

    Tensors are found in nested tuples, lists and dicts. Other values stay as they are.
    """
    if isinstance(values, Tensor):
        return (values.double() if wide else values).detach().clone().requires_grad_()
    if isinstance(values, tuple | list):
        return type(values)(leaves(value, wide) for value in values)
    return {k: leaves(v, wide) for k, v in values.items()} if isinstance(values, dict) else values


def compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], args: Any, kwargs: Any, device: str) -> None:
    """Assert that the result and every gradient of `ours` agree with those of `theirs`, which computes in float64."""
    steps = []
    for function, wide in ((ours, False), (theirs, True)):
        given = leaves((tuple(t.to(device) if isinstance(t, Tensor) else t for t in args), kwargs), wide)
        parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
        inputs = [t for t in (*given[0], *given[1].values()) if isinstance(t, Tensor)] + parameters
        y = function(*given[0], **given[1])
        # The incoming gradient varies smoothly, so that a mixed-up position is noticed.
        weighting = torch.linspace(-1, 2, max(y.numel(), 1), device=y.device)[: y.numel()].view(y.shape).to(y.dtype)
        steps.append([y, *torch.autograd.grad(y, inputs, weighting)])
    for actual, expected in zip(*steps, strict=True):
        assert_close(actual, expected, str(actual.dtype).removeprefix("torch."))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_operators(name: str, implementation: str, device: str) -> None:
    (op,) = (op for op in op_db if op.name == f"nn.functional.{name}")
    samples = list(op.sample_inputs("cpu", dtype_of(implementation), requires_grad=False))
    assert len(samples) >= {"conv2d": 30, "conv_transpose2d": 12}[name]
    for sample in samples:
        ours, theirs = (getattr(m, name) for m in (package(implementation), nn.functional))
        compare(ours, theirs, (sample.input, *sample.args), sample.kwargs, device)


def test_errors(implementation: str) -> None:
    (op,) = (op for op in op_db if op.name == "nn.functional.conv2d")
    errors = list(op.error_inputs("cpu"))
    assert len(errors) >= 10
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            package(implementation).conv2d(sample.input, *sample.args, **sample.kwargs)


def turned(layer: nn.Module, implementation: str) -> nn.Module:
    """Return a copy of torch's layer whose class is ours."""
    layer = copy.deepcopy(layer)
    layer.__class__ = getattr(package(implementation), type(layer).__name__)
    return layer


def compare_layers(layer: nn.Module, args: Any, kwargs: Any, implementation: str, device: str) -> None:
    """Assert that a copy of `layer` whose class is ours agrees with torch's layer.

    `layer` itself is first moved to `device` and cast to `dtype_of(implementation)`. Only torch's copy is then cast to
    float64.
    """
    layer = layer.to(device, dtype_of(implementation))
    compare(turned(layer, implementation), copy.deepcopy(layer).double(), args, kwargs, device)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_modules(name: str, implementation: str, device: str) -> None:
    (info,) = (info for info in module_db if info.module_cls is getattr(nn, name))
    dtype = dtype_of(implementation)
    inputs = list(info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True))
    assert len(inputs) >= {"Conv2d": 4, "ConvTranspose2d": 2}[name]
    for case in inputs:
        constructor, forward = case.constructor_input, case.forward_input
        layer = getattr(nn, name)(*constructor.args, **constructor.kwargs)
        compare_layers(layer, forward.args, forward.kwargs, implementation, device)


def new_module_tests() -> list[Any]:
    found = []
    for case in get_new_module_tests():
        name = case.get("fullname") or "_".join(filter(None, (case["module_name"], case.get("desc"))))
        if name.split("_")[0] in ("Conv2d", "ConvTranspose2d"):
            found.append(pytest.param(case, id=name))
    return found


def test_there_are_as_many_as_there_were() -> None:
    assert len(new_module_tests()) >= 24


@pytest.mark.parametrize("case", new_module_tests())
def test_new_modules(case: dict[str, Any], implementation: str, device: str) -> None:
    if "constructor" in case:
        layer = case["constructor"]()
    else:
        layer = getattr(nn, case["module_name"])(*case["constructor_args"])
    image = torch.randn(case["input_size"], dtype=dtype_of(implementation))
    compare_layers(layer, (image,), {}, implementation, device)
