"""Forward mode and vmap give what torch gives, for every subset of what has a tangent, is differentiated or is mapped.

Most operators run as the reference in float64, and on tiny images some run in Triton.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import tritonconv
from tests.support.cases import Case
from tests.support.oracle import convolution_precision
from tests.support.subsets import SHARED, TINY, VARYING, Function, Subset, assert_alike, gradients, problem_of, subsets
from tritonconv import reference
from tritonconv.operators import autograd, vmap

Dims = tuple[int | None, ...]

pytestmark = pytest.mark.gpu
EVERY = pytest.mark.parametrize("case", SHARED + VARYING, ids=str)
PLAIN = pytest.mark.parametrize("case", SHARED[::3], ids=str)
PACKAGES = pytest.mark.parametrize("package", [reference, tritonconv], ids=lambda package: package.__name__)


def of_some(function: Callable[..., Any], operands: Sequence[Tensor], chosen: Subset) -> Callable[..., Any]:
    """Return `function` of the operands `chosen` alone. The others are fixed."""

    def fewer(*given: Tensor) -> Any:
        return function(*(given[chosen.index(i)] if i in chosen else t for i, t in enumerate(operands)))

    return fewer


def loss_of(function: Function) -> Function:
    """Return a number for the result of `function` that does not depend linearly on it."""

    def loss(*operands: Tensor) -> Tensor:
        result = function(*operands)
        return (result.square() * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view(result.shape)).sum()

    return loss


@EVERY
def test_tangents(case: Case) -> None:
    """Any operands have a tangent."""
    ours, theirs, operands = problem_of(case)
    tangents = [torch.randn_like(t) for t in operands]
    for moving in subsets(len(operands)):
        given = tuple(operands[i] for i in moving), tuple(tangents[i] for i in moving)
        results = [torch.func.jvp(of_some(function, operands, moving), *given) for function in (ours, theirs)]
        assert_alike(*results, f"operands {moving} have tangents")


@PLAIN
@PACKAGES
def test_tangents_of_gradients(case: Case, package: Any) -> None:
    """Forward over reverse mode, for any operands with a gradient and any with a tangent."""
    ours, theirs, operands = problem_of(case, package)
    tangents = [torch.randn_like(t) for t in operands]
    every = subsets(len(operands))
    for needing, moving in product(every, every if package is tritonconv else every[-1:]):
        given = tuple(operands[i] for i in moving), tuple(tangents[i] for i in moving)
        results = []
        for function in (ours, theirs):
            first = torch.func.grad(loss_of(function), argnums=needing)
            results.append(torch.func.jvp(of_some(first, operands, moving), *given)[1])
        assert_alike(*results, f"operands {moving} have tangents, {needing} have gradients")


@PLAIN
@PACKAGES
def test_gradients_of_tangents(case: Case, package: Any) -> None:
    """Reverse over forward mode of complex numbers, by dual tensors. The tangents need a gradient, too."""
    ours, theirs, operands = problem_of(case, package, torch.complex128)
    tangents, along = [torch.randn_like(t) for t in operands], torch.randn_like(theirs(*operands))

    def results(function: Function, needing: Subset, moving: Subset) -> tuple[Tensor | None, ...]:
        leaves = [t.detach().requires_grad_(i in needing) for i, t in enumerate(operands)]
        slopes = [t.detach().requires_grad_() for t in tangents]
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, slopes[i]) if i in moving else t for i, t in enumerate(leaves)]
            tangent = forward_ad.unpack_dual(function(*duals)).tangent
            wanted = [leaves[i] for i in needing] + [slopes[i] for i in moving]
            return tangent, *gradients((tangent * along).sum().real, wanted)

    every = subsets(len(operands))
    for needing, moving in product(every, every):
        actual, expected = (results(function, needing, moving) for function in (ours, theirs))
        what = f"operands {moving} have tangents, {needing} have gradients"
        assert_alike(actual, expected, what, zeros=package is reference)


@pytest.mark.parametrize("case", SHARED[::3] + VARYING, ids=str)
def test_every_block_of_the_hessian(case: Case) -> None:
    """The Hessian with respect to all operands: forward over reverse mode, mapped twice."""
    small = Case(
        case.name,
        1,
        (2, 2),
        (2, 2),
        (2, 1),
        transposed=case.transposed,
        varies=case.varies,
        bias_varies=case.bias_varies,
    )
    ours, theirs, operands = problem_of(small)
    every = tuple(range(len(operands)))
    blocks = [
        [block for row in torch.func.hessian(loss_of(function), argnums=every)(*operands) for block in row]
        for function in (ours, theirs)
    ]
    assert_alike(*blocks, "blocks")


def mapped(operands: Sequence[Tensor], dims: Dims, extent: int) -> list[Tensor]:
    """Return random tensors of the shapes of `operands`, with `extent` of them along the mapped dimensions `dims`."""
    return [
        t if dim is None else torch.randn(extent, *t.shape, dtype=t.dtype).movedim(0, dim)
        for t, dim in zip(operands, dims, strict=True)
    ]


@pytest.mark.parametrize(
    ("case", "package"),
    [(case, tritonconv) for case in SHARED + VARYING] + [(case, reference) for case in SHARED[::3]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_vmap(case: Case, package: Any) -> None:
    """Any operands are mapped. The extent is that of the channels, so that a mixed-up dimension raises no error."""
    ours, theirs, operands = problem_of(case, package)
    for chosen, (even, odd) in product(subsets(len(operands)), ((0, -1), (-1, 0))):
        dims = tuple((odd if i % 2 else even) if i in chosen else None for i in range(len(operands)))
        given = mapped(operands, dims, case.channels[1])
        results = [(torch.vmap(function, dims)(*given),) for function in (ours, theirs)]
        assert_alike(*results, f"mapped {dims}")


@pytest.mark.parametrize(("name", "case"), [("fprop", SHARED[0]), ("dgrad", SHARED[3])], ids=str)
def test_a_mapped_bias_alone_takes_one_convolution(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _, (input, weight, bias) = problem_of(case)
    call, shapes = autograd.OVERLOADS[name], []

    def noted(*arguments: Any) -> Any:
        shapes.append(tuple(arguments[0].shape))
        return call(*arguments)

    monkeypatch.setattr(vmap, "OVERLOADS", {name: noted})
    torch.vmap(ours, (None, None, 0))(input, weight, torch.stack([bias, -bias]))
    assert shapes == [tuple(input.shape)]


@PLAIN
@PACKAGES
def test_vmap_in_vmap(case: Case, package: Any) -> None:
    """Any operands are mapped, and any of them once more."""
    ours, theirs, operands = problem_of(case, package)
    every = [tuple(0 if i in chosen else None for i in range(3)) for chosen in subsets(3)]
    for inner, outer in product(every, every):
        given = mapped(mapped(operands, inner, 2), outer, 3)
        results = [(torch.vmap(torch.vmap(function, inner), outer)(*given),) for function in (ours, theirs)]
        assert_alike(*results, f"mapped {inner} in {outer}")


@pytest.mark.parametrize("case", SHARED[::3] + VARYING, ids=str)
def test_gradients_in_vmap(case: Case) -> None:
    """Any operands are mapped, and any of them have a gradient, as for gradients of each sample and for ensembles.

    If the weight varies, all of them have a gradient.
    """
    ours, theirs, operands = problem_of(case)
    every = subsets(len(operands))
    for needing, chosen in product(every[-1:] if case.varies else every, every):
        dims = tuple(0 if i in chosen else None for i in range(len(operands)))
        given = mapped(operands, dims, 3)
        results = [
            torch.vmap(torch.func.grad(loss_of(function), argnums=needing), dims)(*given) for function in (ours, theirs)
        ]
        assert_alike(*results, f"operands {chosen} are mapped, {needing} have gradients")


@PLAIN
def test_gradients_of_vmap(case: Case) -> None:
    """Any operands are mapped, and any of them need a gradient outside."""
    ours, theirs, operands = problem_of(case)
    every = subsets(len(operands))
    for needing, chosen in product(every, every):
        dims = tuple(0 if i in chosen else None for i in range(len(operands)))
        given = mapped(operands, dims, 3)
        results = []
        for function in (ours, theirs):
            leaves = [t.detach().requires_grad_(i in needing) for i, t in enumerate(given)]
            loss = loss_of(torch.vmap(function, dims))(*leaves)
            results.append(gradients(loss, [leaves[i] for i in needing]))
        assert_alike(*results, f"operands {chosen} are mapped, {needing} have gradients")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("transposed", "chosen"), [*((False, chosen) for chosen in subsets(3)), (True, (2,)), (True, (0, 1, 2))], ids=str
)
def test_vmap_in_triton(transposed: bool, chosen: Subset, device: str) -> None:
    """Any operands are mapped, and the same ones have a gradient."""
    ours, theirs, operands = problem_of(replace(TINY, transposed=transposed), implementation="triton")
    dims = tuple(0 if i in chosen else None for i in range(3))
    given = [t.to(device, torch.float32) for t in mapped(operands, dims, 2)]

    def results(function: Function, dtype: torch.dtype) -> tuple[Tensor, ...]:
        mapped = torch.vmap(torch.func.grad(loss_of(function), argnums=chosen), dims)
        return mapped(*(t.to(dtype) for t in given))

    with convolution_precision("ieee"):
        actual = results(ours, torch.float32)
    assert_alike(actual, results(theirs, torch.float64), "gradients", "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("needing", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_tangents_of_gradients_in_triton(needing: Subset, device: str) -> None:
    """Some operands have a gradient, and all have a tangent."""
    ours, theirs, operands = problem_of(TINY, implementation="triton")
    given, along = ([torch.randn_like(t).to(device, torch.float32) for t in operands] for _ in range(2))

    def results(function: Function, dtype: torch.dtype) -> tuple[Tensor, ...]:
        first = torch.func.grad(loss_of(function), argnums=needing)
        return torch.func.jvp(first, *(tuple(t.to(dtype) for t in ts) for ts in (given, along)))[1]

    with convolution_precision("ieee"):
        actual = results(ours, torch.float32)
    assert_alike(actual, results(theirs, torch.float64), "tangents of gradients", "float32")
