"""Forward mode inside forward mode, which torch does not differentiate through an autograd Function."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jvp

import tritonconv
from tests.support.oracle import assert_close
from tritonconv import fallback_warning, reference, runtime

SHAPES = {
    "conv2d": ((2, 3, 4, 4), (5, 3, 2, 2), (5,)),
    "conv_transpose2d": ((2, 3, 3, 3), (3, 5, 2, 2), (5,)),
    "locally_connected2d": ((2, 3, 3, 3), (2, 2, 4, 3, 2, 2), (4, 2, 2)),
    "per_sample_conv2d": ((2, 3, 3, 3), (2, 4, 3, 2, 2), (2, 4)),
}


def operands(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES[name])


def second_tangent(function: Any, given: tuple[Tensor, ...]) -> Tensor:
    """Return the tangent of the tangent of `function`, in one direction for all operands."""
    tangents = tuple(torch.ones_like(t) for t in given)
    return jvp(lambda *inner: jvp(function, inner, tangents)[1], given, tangents)[1]


@pytest.mark.usefixtures("on_reference")
@pytest.mark.parametrize("name", SHAPES)
def test_second_tangents(name: str) -> None:
    """The reference is the oracle: it is made of torch's own operations. Weights that vary have no other."""
    given = operands(name)
    oracle = getattr(torch.nn.functional, name, getattr(reference, name, None))

    def energy(module_function: Any) -> Any:
        return lambda *inner: module_function(*inner).square().sum()

    def gradients(module_function: Any) -> Any:
        found = grad(energy(module_function), (0, 1, 2))
        return lambda *inner: torch.cat([each.flatten() for each in found(*inner)])

    ours, theirs = getattr(tritonconv, name), oracle
    assert_close(second_tangent(ours, given), second_tangent(theirs, given), "float64")
    assert_close(second_tangent(gradients(ours), given), second_tangent(gradients(theirs), given), "float64")
    for argument in range(3):
        mixed = [jacfwd(jacfwd(energy(each), argument), 1)(*given) for each in (ours, theirs)]
        assert_close(*mixed, "float64")


@pytest.mark.usefixtures("on_reference")
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_second_tangents_of_backward(name: str) -> None:
    """Forward runs outside of forward mode, and only backward in it: operators compute the gradients there."""
    found = []
    for module in (tritonconv, torch.nn.functional):
        y, pull_back = torch.func.vjp(getattr(module, name), *operands(name))
        gradient = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)

        def function(gradient: Tensor, pull_back: Any = pull_back) -> Tensor:
            return torch.cat([each.flatten() for each in pull_back(gradient.square())])

        found.append(second_tangent(function, (gradient,)))
    assert_close(*found, "float64")


def test_the_fallback_on_a_gpu_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "is_gpu", lambda device: True)
    monkeypatch.setattr(fallback_warning, "_said", {})
    given = operands("conv2d")
    with pytest.warns(tritonconv.FallbackWarning, match="forward mode inside forward mode"):
        second_tangent(tritonconv.conv2d, given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_tangent(tritonconv.conv2d, given)


def test_the_reference_by_name_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "is_gpu", lambda device: True)
    monkeypatch.setattr(fallback_warning, "_said", {})
    with tritonconv.using("reference"), warnings.catch_warnings():
        warnings.simplefilter("error")
        second_tangent(tritonconv.conv2d, operands("conv2d"))


def test_triton_by_name_is_refused() -> None:
    given = operands("conv2d", torch.float32)
    with tritonconv.using("triton"), pytest.raises(NotImplementedError, match=r"triton: .* no autograd Function"):
        second_tangent(tritonconv.conv2d, given)
