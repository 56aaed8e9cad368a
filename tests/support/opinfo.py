"""The samples of torch's OpInfo table for conv2d and conv_transpose2d, as pytest parameters for each implementation.

torch.testing._internal is a private API. It needs expecttest, without which this module skips the test file that
imports it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import tritonconv
from tritonconv import reference

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, from the imports of its test suite
    from torch.testing._internal.common_methods_invocations import op_db

NAMES = ("conv2d", "conv_transpose2d")
OPINFOS = {name: next(op for op in op_db if op.name == f"nn.functional.{name}") for name in NAMES}
SAMPLES = {name: list(info.sample_inputs("cpu", torch.float32)) for name, info in OPINFOS.items()}

# Who computes: the reference, the operators of tritonconv on the reference, and the operators on the kernels.
IMPLEMENTATIONS: dict[str, Callable[[str], Callable[..., Tensor]]] = {
    "reference": lambda name: getattr(reference, name),
    "operator": lambda name: partial(getattr(tritonconv, name), implementation="reference"),
    "triton": lambda name: partial(getattr(tritonconv, name), implementation="triton"),
}
IN_PYTORCH = ("reference", "operator")

Places = dict[str, tuple[int, ...]]
# The samples that run in `make test`, by their places in torch's table. `make test-all` runs all. The first dict shows
# every argument. The second does so with little work for Triton's interpreter. The third is for the longest checks.
TELLING: Places = {"conv2d": (3, 8, 10, 13, 26), "conv_transpose2d": (3, 4, 6, 8)}
TINY: Places = {"conv2d": (5, 8, 10, 13, 27), "conv_transpose2d": (0, 4, 9, 11)}
FEW: Places = {"conv2d": (5, 8), "conv_transpose2d": (0, 11)}
DEFAULTS = {"padding": (0, (0, 0)), "output_padding": (0, (0, 0))}


@dataclass(frozen=True)
class Problem:
    """A sample of torch's table, by its place there, and the implementation that computes it."""

    name: str
    implementation: str
    place: int

    def __str__(self) -> str:
        return f"{self.name}-{self.implementation}-{self.place}_{'_'.join(self.special)}"

    @property
    def opinfo(self) -> Any:
        return OPINFOS[self.name]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is tested where a test does not name one: float32 for the kernels, else float64."""
        return torch.float32 if self.implementation == "triton" else torch.float64

    @property
    def device(self) -> str:
        return "cuda" if self.implementation == "triton" and torch.cuda.is_available() else "cpu"

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments: stride, padding and so on."""
        return dict(SAMPLES[self.name][self.place].kwargs)

    @property
    def special(self) -> list[str]:
        """Words for what is special about the sample, for test ids."""
        sample = SAMPLES[self.name][self.place]
        words = [
            value if isinstance(value, str) else name
            for name, value in sample.kwargs.items()
            if value not in DEFAULTS.get(name, (1, (1, 1)))
        ]
        return words + ["unbatched"] * (sample.input.ndim == 3) + ["bias" if sample.args[1] is not None else "plain"]

    @property
    def ours(self) -> Callable[..., Tensor]:
        """The function of the tensors alone: input, weight and, if the sample has one, bias."""
        return partial(IMPLEMENTATIONS[self.implementation](self.name), **self.arguments)

    @property
    def theirs(self) -> Callable[..., Tensor]:
        """torch's function of the tensors alone."""
        return partial(getattr(torch.nn.functional, self.name), **self.arguments)

    def operands(self, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Return input, weight and bias with integers from -3 to 3. Sums of their products are exact in any order."""
        sample = next(islice(self.opinfo.sample_inputs("cpu", dtype or self.dtype), self.place, None))
        tensors = (sample.input, *sample.args)
        return tuple(whole(t).to(self.device) for t in tensors if t is not None)


def whole(tensor: Tensor) -> Tensor:
    """Return a third of the numbers, which in torch's samples are at most 9, rounded to whole numbers."""
    if tensor.is_complex():
        return torch.view_as_complex(whole(torch.view_as_real(tensor)))
    return (tensor / 3).round()


def integers_like(tensor: Tensor) -> Tensor:
    """Return integers from -2 to 2 in shape, dtype and device of `tensor`. If it is complex, so are they."""
    if tensor.is_complex():
        return torch.complex(*(integers_like(part) for part in (tensor.real, tensor.imag)))
    return torch.randint(-2, 3, tensor.shape, device=tensor.device).to(tensor.dtype)


def wide(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the same numbers on the CPU, in float64 or complex128."""
    return tuple(t.detach().cpu().to(torch.complex128 if t.is_complex() else torch.float64) for t in tensors)


def leaves(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the same tensors as leaves that require a gradient. They share their memory and strides."""
    return tuple(t.detach().requires_grad_() for t in tensors)


def step(function: Callable[..., Tensor], operands: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the result of `function` and the gradients of its operands. `gradient` is the incoming one."""
    given = leaves(operands)
    result = function(*given)
    return result.detach(), *torch.autograd.grad(result, given, gradient)


def assert_exact(actual: Any, expected: Any) -> None:
    """Assert that the tensors of two trees agree in shape and in every number. Their dtypes and devices may differ."""
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert a.shape == e.shape
        wrong = a.detach().cpu().to(e.dtype) != e.detach().cpu()
        assert not wrong.any(), f"{int(wrong.sum())} of {e.numel()} numbers differ: {a[wrong][:3]}, not {e[wrong][:3]}"


def problems(
    implementations: Sequence[str] = tuple(IMPLEMENTATIONS), quick: Places = TELLING, in_triton: Places = TINY
) -> Any:
    """Return a decorator that runs a test for each function, implementation and sample, as the parameter `problem`.

    Samples outside of `quick` are marked slow. For the kernels, `in_triton` takes the place of `quick`.
    """
    found = []
    for name in NAMES:
        for implementation in implementations:
            chosen = (in_triton if implementation == "triton" else quick).get(name, ())
            for place in range(len(SAMPLES[name])):
                problem = Problem(name, implementation, place)
                found.append(pytest.param(problem, id=str(problem), marks=[pytest.mark.slow] * (place not in chosen)))
    return pytest.mark.parametrize("problem", found)
