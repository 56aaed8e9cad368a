"""The wiring: every way of differentiating, mapping, compiling and exporting gives what torch.nn gives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils._pytree import tree_leaves

import tritonconv
from tests.cases import CONV, TRANSPOSED, Case, laid_out
from tests.oracle import assert_close, hostile

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's own compiler stack
    pytest.mark.usefixtures("on_reference"),
]

Function = Callable[..., Tensor]
OPERATORS = torch.ops.tritonconv


@pytest.fixture(params=[False, True], ids=["conv2d", "conv_transpose2d"])
def problem(request: pytest.FixtureRequest) -> tuple[Function, Function, tuple[Tensor, ...]]:
    """Our function, torch's, and operands."""
    transposed = request.param
    case = Case(
        "wiring", stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, kernel=(3, 2), transposed=transposed
    )
    name = "conv_transpose2d" if transposed else "conv2d"
    ours, theirs = (partial(getattr(m, name), **case.arguments) for m in (tritonconv, torch.nn.functional))
    return ours, theirs, tuple(t for t in case.operands(torch.float64) if t is not None)


def assert_same(actual: Any, expected: Any) -> None:
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert_close(a, e, "float64")
        assert e.abs().sum() > 0, "zeros would be no evidence"


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
    """Over input, weight and bias, singly and together; a mapped dimension may be any."""
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

    assert_same(per_sample(ours), per_sample(theirs))
    assert_same(hessian(ours), hessian(theirs))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(problem: Any, dynamic: bool) -> None:
    """Without a graph break, forward and backward, and for another batch."""
    ours, theirs, operands = problem
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend="aot_eager")

    def step(function: Function, batch: int) -> tuple[Tensor, ...]:
        torch.manual_seed(batch)
        inputs = [torch.randn(batch, *operands[0].shape[1:], dtype=torch.float64), *operands[1:]]
        inputs = [t.requires_grad_() for t in inputs]
        y = function(*inputs)
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    for batch in (2, 5):
        assert_same(step(compiled, batch), step(theirs, batch))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = tritonconv.Conv2d(3, 4, 3, padding="same", dtype=torch.float64)
            self.up = tritonconv.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.down(x).relu())

    model = Model()
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    exported = torch.export.export(model, (image,), strict=strict, dynamic_shapes=shapes).module()
    other = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    result = []
    for module in (exported, model):
        y = module(other)
        result.append((y, torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    assert_same(*result)


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


@pytest.mark.parametrize("case", CONV + TRANSPOSED, ids=lambda case: f"{'transposed_' * case.transposed}{case}")
def test_all_gradients_of_every_case(case: Case) -> None:
    name = "conv_transpose2d" if case.transposed else "conv2d"
    operands = [t.detach().requires_grad_() for t in case.operands(torch.float64) if t is not None]
    results = []
    for module in (tritonconv, torch.nn.functional):
        y = getattr(module, name)(*operands, **case.arguments)
        results.append((y, *torch.autograd.grad(y.square().sum(), operands)))
    for a, e in zip(*results, strict=True):
        assert_close(a, e, "float64")


@pytest.mark.filterwarnings("ignore:tritonconv.*runs as reference:UserWarning")  # on a GPU
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_results_can_be_modified_in_place(implementation: str, batched: bool, device: str) -> None:
    """As `nn.ReLU(inplace=True)` does after every convolution."""
    weight = torch.randn(4, 4, 3, 3, requires_grad=True, device=device)
    image = torch.randn((2, 4, 5, 5) if batched else (4, 5, 5), device=device)
    for name in ("conv2d", "conv_transpose2d"):
        gradients = []
        ours = getattr(tritonconv, name)(image, weight, implementation=implementation)
        theirs = getattr(torch.nn.functional, name)(image.double(), weight.double())
        for y in (ours, theirs):
            gradients.append(torch.autograd.grad(y.relu_().square().sum(), weight)[0])
        assert_close(gradients[0], gradients[1].double(), "float32" if device == "cpu" else "tf32")


SAMPLING = ((2, 1), (1, 2), (1, 2), 2, False, "reference")


def test_opcheck() -> None:
    """torch's own checks of schema, autograd registration, fake tensors and tracing."""
    x, weight, y = (torch.randn(s, dtype=torch.float64) for s in ((2, 4, 6, 5), (6, 2, 3, 2), (2, 6, 3, 6)))
    for image in (x.clone(), x.to(memory_format=torch.channels_last)):
        for t in (image, weight, y):
            t.requires_grad_()
        opcheck(OPERATORS.fprop.default, (image, weight, None, (3, 7), *SAMPLING))
        opcheck(OPERATORS.fprop.default, (image, weight, y.new_zeros(6).requires_grad_(), (3, 6), *SAMPLING))
        opcheck(OPERATORS.dgrad.default, (y, weight, None, (6, 5), *SAMPLING))
        opcheck(OPERATORS.wgrad.default, (image, y, (3, 2), *SAMPLING))
        opcheck(OPERATORS.wgrad_with_bias.default, (image, y, (3, 2), *SAMPLING))


@pytest.mark.filterwarnings("ignore:tritonconv.*runs as reference:UserWarning")  # on a GPU
@pytest.mark.usefixtures("guarded_memory")
@pytest.mark.parametrize("case", [c for c in CONV if c.name in ("plain", "grouped", "aligned", "strided")], ids=str)
def test_training_step_with_the_kernel(case: Case, device: str) -> None:
    """fprop in Triton forward, and again in the backward of the transposed layer; all gradients against torch.nn."""
    x, weight, bias = (t.requires_grad_() for t in case.operands(torch.float32, device) if t is not None)
    y = tritonconv.conv2d(x, weight, bias, **case.arguments, implementation="triton")
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), **case.arguments)
    gradient = torch.randn_like(y)
    actual = torch.autograd.grad(y, (x, weight, bias), gradient)
    for a, e in zip(actual, torch.autograd.grad(expected, (x, weight, bias), gradient.double()), strict=True):
        assert_close(a, e, "float32" if device == "cpu" else "tf32")

    spread = tritonconv.conv_transpose2d(y.detach().requires_grad_(), weight, **case.arguments, implementation="triton")
    down = torch.autograd.grad(spread.square().sum(), weight)[0]
    twice = torch.nn.functional.conv_transpose2d(y.detach().double(), weight.double(), **case.arguments)
    assert_close(down, torch.autograd.grad(twice.square().sum(), weight)[0], "float32" if device == "cpu" else "tf32")
