"""Every way of differentiating, mapping (vmap) and compiling gives what torch.nn gives."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import tritonconv
from tests.support.cases import CONV, TRANSPOSED, Case, laid_out
from tests.support.oracle import assert_close, assert_same, convolution_precision, hostile, one_by_one

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.usefixtures("on_reference"),
]


@pytest.fixture
def exact() -> Iterator[None]:
    """Compute in float32 without TF32, whose rounding would add up over a chain of products."""
    with convolution_precision("ieee"):
        yield


Function = Callable[..., Tensor]


WIRING = [
    Case("conv2d"),
    Case("conv_transpose2d", transposed=True),
    Case("locally_connected2d", varies="p q", bias_varies="p q"),
    Case("locally_connected_transpose2d", transposed=True, varies="p q", bias_varies="p q"),
    Case("per_sample_conv2d", varies="b", bias_varies="b"),
    Case("dynamic_conv2d", varies="b p q", bias_varies="b p q"),
]


@pytest.fixture(params=WIRING, ids=str)
def problem(request: pytest.FixtureRequest) -> tuple[Function, Function, tuple[Tensor, ...]]:
    """Our function, torch's function, and input, weight and bias in float64, for each case of `WIRING`."""
    case = replace(request.param, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, kernel=(3, 2))
    if case.varies:
        case = replace(case, size=(3, 3 if case.transposed else 2), channels=(4, 2))
    theirs = partial(one_by_one, case) if case.varies else case.function(torch.nn)
    return case.function(tritonconv), theirs, tuple(t for t in case.operands(torch.float64) if t is not None)


@pytest.mark.first
def test_gradcheck(problem: Any) -> None:
    ours, _, operands = problem
    operands = [t.requires_grad_() for t in operands]
    assert torch.autograd.gradcheck(ours, operands, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, operands)


def test_forward_mode(problem: Any) -> None:
    ours, theirs, operands = problem
    tangents = tuple(torch.randn_like(t) for t in operands)
    assert_same(torch.func.jvp(ours, operands, tangents), torch.func.jvp(theirs, operands, tangents))
    for i in range(3):

        def one(function: Function, at: int = i) -> Tensor:
            return torch.func.jvp(
                lambda t: function(*operands[:at], t, *operands[at + 1 :]), (operands[at],), (tangents[at],)
            )[1]

        assert_same(one(ours), one(theirs))


@pytest.mark.parametrize("mapped", range(1, 8))
def test_vmap(problem: Any, mapped: int) -> None:
    """Input, weight and bias are mapped, singly and together. A mapped dimension need not be the first."""
    ours, theirs, operands = problem
    dims = tuple((i % 2 if mapped >> i & 1 else None) for i in range(3))
    stacked = tuple(
        t if d is None else torch.randn(3, *t.shape, dtype=t.dtype).movedim(0, d)
        for t, d in zip(operands, dims, strict=True)
    )
    assert_same(torch.vmap(ours, dims)(*stacked), torch.vmap(theirs, dims)(*stacked))


def test_per_sample_gradients_and_hessian(problem: Any) -> None:
    ours, theirs, (x, weight, bias) = problem

    def per_sample(function: Function) -> Tensor:
        gradient = torch.func.grad(lambda w, image: function(image, w, bias).square().sum())
        return torch.vmap(gradient, (None, 0))(weight, x)

    def hessian(function: Function) -> Tensor:
        return torch.func.hessian(lambda w: function(x, w, bias).square().sum())(weight)

    if weight.ndim in (4, 6):  # all samples share the weight
        assert_same(per_sample(ours), per_sample(theirs))
    assert_same(hessian(ours), hessian(theirs))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(problem: Any, dynamic: bool) -> None:
    """Forward and backward compile without a graph break, and are right for another batch, too."""
    ours, theirs, operands = problem
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend="aot_eager")

    def step(function: Function, batch: int) -> tuple[Tensor, ...]:
        torch.manual_seed(batch)
        per_sample = operands[1].ndim in (5, 7)
        sizes = [(batch, *t.shape[1:]) if i == 0 or per_sample else t.shape for i, t in enumerate(operands)]
        inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
        y = function(*inputs)
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    for batch in (2, 5):
        assert_same(step(compiled, batch), step(theirs, batch))


def test_complex_gradients(problem: Any) -> None:
    ours, theirs, operands = problem
    operands = [torch.randn_like(t, dtype=torch.complex128).requires_grad_() for t in operands]

    def gradients(function: Function) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*operands).abs().square().sum(), operands)

    for a, e in zip(gradients(ours), gradients(theirs), strict=True):
        assert_close(a, e, "float64")


@pytest.mark.parametrize("layout", ["all_zero_strides", "channels_last", "sliced", "transposed", "expanded", "offset"])
def test_any_layout_of_the_incoming_gradient(problem: Any, layout: str) -> None:
    ours, theirs, operands = problem
    operands = [laid_out(t, layout if layout != "all_zero_strides" else "expanded") for t in operands[:2]] + [
        operands[2]
    ]
    operands = [t.requires_grad_() for t in operands]

    def gradients(function: Function) -> tuple[Tensor, ...]:
        y = function(*operands)
        return torch.autograd.grad(y, operands, hostile(y.shape, y.dtype, layout))

    assert_same(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("case", CONV + TRANSPOSED, ids=lambda case: case.title)
def test_all_gradients_of_every_case(case: Case) -> None:
    name = "conv_transpose2d" if case.transposed else "conv2d"
    operands = [t.detach().requires_grad_() for t in case.operands(torch.float64) if t is not None]
    results = []
    for module in (tritonconv, torch.nn.functional):
        y = getattr(module, name)(*operands, **case.arguments)
        results.append((y, *torch.autograd.grad(y.square().sum(), operands)))
    for a, e in zip(*results, strict=True):
        assert_close(a, e, "float64")


@pytest.mark.usefixtures("exact")
@pytest.mark.filterwarnings("ignore:tritonconv.*runs as the reference:UserWarning")  # given on a GPU
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_results_can_be_modified_in_place(implementation: str, batched: bool, device: str) -> None:
    """Convolutions are often followed by `nn.ReLU(inplace=True)`."""
    weight = torch.randn(4, 4, 3, 3, requires_grad=True, device=device)
    image = torch.randn((2, 4, 5, 5) if batched else (4, 5, 5), device=device)
    for name in ("conv2d", "conv_transpose2d"):
        gradients = []
        ours = getattr(tritonconv, name)(image, weight, implementation=implementation)
        theirs = getattr(torch.nn.functional, name)(image.double(), weight.double())
        for y in (ours, theirs):
            gradients.append(torch.autograd.grad(y.relu_().square().sum(), weight)[0])
        assert_close(gradients[0], gradients[1].double(), "float32")


@pytest.mark.usefixtures("exact")
def test_second_order_in_triton(problem: Any, device: str) -> None:
    """Second-order gradients, all of whose operators run in Triton, in float32."""
    ours, theirs, operands = problem
    if operands[1].ndim == 7 and device == "cpu":
        pytest.skip("too slow in the interpreter, where each sample and position is a program")
    torch.manual_seed(0)
    wanted = [torch.randn_like(t) for t in operands]

    def second(function: Function, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(device, dtype, copy=True).requires_grad_() for t in operands]
        y = function(*leaves)
        weighting = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).view(y.shape)
        first = torch.autograd.grad((y.square() * weighting).sum(), leaves, create_graph=True)
        inner = sum((g * t.to(device, dtype)).sum() for g, t in zip(first, wanted, strict=True))
        return *first, *torch.autograd.grad(inner, leaves)

    actual = second(partial(ours, implementation="triton"), torch.float32)
    for a, e in zip(actual, second(theirs, torch.float64), strict=True):
        assert_close(a, e, "float32")


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("transposed", [False, True])
def test_transforms_in_triton(transposed: bool, device: str) -> None:
    """jvp, per-sample gradients and a Hessian run in Triton, in float32."""
    case = Case("transforms", channels=(2, 2), size=(4, 3), kernel=(2, 2), stride=(2, 1), transposed=transposed)
    name = "conv_transpose2d" if transposed else "conv2d"
    x, weight, _ = (t.to(device) for t in case.operands(torch.float64))
    tangents = torch.randn_like(x), torch.randn_like(weight)

    def results(module: Any, dtype: torch.dtype, **wish: Any) -> tuple[Tensor, ...]:
        function = partial(getattr(module, name), **case.arguments, **wish)
        image, filters, *along = (t.to(dtype) for t in (x, weight, *tangents))
        gradient = torch.func.grad(lambda w, one: function(one, w).pow(3).sum())
        return (
            *torch.func.jvp(function, (image, filters), tuple(along)),
            torch.vmap(gradient, (None, 0))(filters, image),
            torch.func.hessian(lambda w: function(image, w).pow(3).sum())(filters),
        )

    actual = results(tritonconv, torch.float32, implementation="triton")
    for a, e in zip(actual, results(torch.nn.functional, torch.float64), strict=True):
        assert_close(a, e, "float32")


def test_derivatives_of_weight_and_bias_gradients(problem: Any) -> None:
    """Forward over reverse mode along the input alone, and vmap over ensembles with a bias for each member."""
    ours, theirs, (x, weight, bias) = problem
    along = torch.randn_like(x)

    def results(function: Function) -> Any:
        weighting = torch.linspace(-1, 2, function(x, weight, bias).numel(), dtype=x.dtype)

        def loss(image: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return (function(image, w, b).flatten() * weighting).sum()

        def square(image: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return function(image, w, b).square().sum()

        gradients = torch.func.grad(loss, argnums=(1, 2))
        tangents = torch.func.jvp(lambda image: gradients(image, weight, bias), (x,), (along,))[1]
        weights, biases = torch.stack([weight, 2 * weight, -weight]), torch.stack([bias, -bias, bias + 1])
        ensemble = torch.vmap(torch.func.grad(square, argnums=(0, 1, 2)), (None, 0, 0))(x, weights, biases)
        own_bias = torch.vmap(function, (0, None, 0))(torch.stack([x, 2 * x, -x]), weight, biases)
        return *tangents, *ensemble, own_bias

    for a, e in zip(results(ours), results(theirs), strict=True):
        assert_close(a, e, "float64")


def test_forward_mode_that_is_entered_too_late_is_refused() -> None:
    """A forward pass outside of forward mode keeps no tangents, so its backward raises inside of forward mode."""
    x, weight, _ = Case("late").operands(torch.float64)
    y = tritonconv.conv2d(x.requires_grad_(), weight)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_vmap_over_any_dimension_of_the_bias(name: str) -> None:
    """The number of maps equals the number of filters, so that a mixed-up dimension would not raise."""
    x, weight, bias = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 4, 2, 2), torch.randn(3, 3)
    weight = weight[..., :3, :, :] if name == "conv_transpose2d" else weight[:, :3]
    maps = [torch.vmap(getattr(m, name), in_dims=(None, 0, 1)) for m in (tritonconv, torch.nn.functional)]
    actual, expected = (mapped(x.double(), weight.double(), bias.double()) for mapped in maps)
    assert_same(actual, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_of_the_bias_is_rounded_once(transposed: bool) -> None:
    """The gradients of two images sum to 2049, which float16 can not hold, and -2048. The total is 1."""
    function = tritonconv.conv_transpose2d if transposed else tritonconv.conv2d
    x, weight, bias = torch.zeros(2, 1, 1, 2), torch.zeros(1, 1, 1, 1), torch.zeros(1, requires_grad=True)
    gradient = torch.tensor([[2048.0, 1], [-2048, 0]]).view(2, 1, 1, 2)
    y = function(x.half(), weight.half(), bias.half())
    assert torch.autograd.grad(y, bias, gradient.half())[0].tolist() == [1]
