"""`torch.compile`, `torch.export` and `opcheck`."""

import io
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import tritonconv
from tests.support.cases import Case, laid_out
from tests.support.oracle import Function, assert_close, assert_same
from tritonconv.settings import Settings

pytestmark = [
    pytest.mark.oldest,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.usefixtures("on_reference"),
]


OPERATORS = torch.ops.tritonconv


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_compiled_autograd() -> None:
    """Backward compiles to one graph, traced through the autograd kernels of the operators."""
    case = Case("compiled", stride=2)
    leaves = [t.requires_grad_() for t in case.operands(torch.float64) if t is not None]
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        case.function(tritonconv)(*leaves).square().sum().backward()
    expected = torch.autograd.grad(case.function(torch.nn)(*leaves).square().sum(), leaves)
    assert_same([t.grad for t in leaves], expected)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch 2.11's, in export.load
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
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (image,), strict=strict, dynamic_shapes=shapes), file)
    file.seek(0)
    exported = torch.export.load(file).module()
    other = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    result = []
    for module in (exported, model):
        y = module(other)
        result.append((y, torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    assert_same(*result)


LAYOUTS_OF_TWO = list(product(["contiguous", "channels_last", "sliced", "transposed", "offset"], repeat=2))


# `make test` takes only these: each layout beside itself and beside the next one.
QUICK_LAYOUTS = [(a, b) for i, (a, b) in enumerate(LAYOUTS_OF_TWO) if i % 6 in (0, 1)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch 2.14's own
@pytest.mark.parametrize(
    ("first", "second", "varies"),
    [
        *(pytest.param(*two, "", marks=[] if two in QUICK_LAYOUTS else [pytest.mark.slow]) for two in LAYOUTS_OF_TWO),
        *(("channels_last", "contiguous", varies) for varies in ("b", "p q", "b p q")),
        *(("sliced", "transposed", varies) for varies in ("b", "p q", "b p q")),
    ],
)
def test_opcheck(first: str, second: str, varies: str) -> None:
    """torch's opcheck of schema, autograd registration, fake tensors and tracing, for 25 layouts of the factors."""
    last = "channels_last" in (first, second)
    sampling = ((2, 1), (1, 2), (1, 2), 2, varies, last, "reference")
    lead = {"": (), "b": (2,), "p q": (3, 7), "b p q": (2, 3, 7)}[varies]
    shapes = {"x": (2, 4, 6, 5), "weight": (*lead, 6, 2, 3, 2), "y": (2, 6, 3, 7)}

    def factors(*names: str) -> list[Tensor]:
        drawn = (torch.randn(shapes[name], dtype=torch.float64) for name in names)
        return [laid_out(t, kind).detach().requires_grad_() for t, kind in zip(drawn, (first, second), strict=True)]

    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    of_image, of_features, of_taps = (Settings(size, *sampling).packed for size in ((6, 5), (3, 7), (3, 2)))
    opcheck(OPERATORS.fprop.default, (*factors("x", "weight"), bias, *of_features))
    opcheck(OPERATORS.dgrad.default, (*factors("y", "weight"), None, *of_image))
    opcheck(OPERATORS.wgrad.default, (*factors("x", "y"), *of_taps))
    if varies == "":
        opcheck(OPERATORS.wgrad_with_bias.default, (*factors("x", "y"), *of_taps))


def compiled(function: Any) -> tuple[Any, list[Any]]:
    """Return a function that is compiled for symbolic numbers, and the list of its graphs."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return torch.compile(function, fullgraph=True, dynamic=True, backend=backend), graphs


def test_sizes_groups_and_padding_may_be_symbolic() -> None:
    """They are not compiled anew, as filters that a network makes for each sample need, and padding by size."""

    def of_samples(images: Tensor, weight: Tensor) -> Tensor:
        B, C, H, W = images.shape
        return tritonconv.conv2d(images.reshape(1, B * C, H, W), weight.flatten(0, 1), padding=H // 4, groups=B)

    function, graphs = compiled(of_samples)
    for B, H in ((2, 5), (3, 8), (4, 9), (5, 13), (6, 17)):
        images, weight = torch.randn(B, 2, H, H), torch.randn(B, 4, 2, 3, 3)
        flat = images.double().reshape(1, 2 * B, H, H), weight.double().flatten(0, 1)
        expected = torch.nn.functional.conv2d(*flat, padding=H // 4, groups=B)
        assert_close(function(images, weight), expected, "float32")
    assert len(graphs) <= 2


def test_strides_are_compiled_anew() -> None:
    function, graphs = compiled(lambda x, w, stride: tritonconv.conv2d(x, w, stride=stride))
    x, w = torch.randn(1, 2, 9, 9), torch.randn(3, 2, 3, 3)
    for stride in (2, 3, 2):
        expected = torch.nn.functional.conv2d(x.double(), w.double(), stride=stride)
        assert_close(function(x, w, stride), expected, "float32")
    assert len(graphs) == 2


@pytest.mark.parametrize("transposed", [False, True])
def test_compiled_transforms_are_right_or_refused(transposed: bool) -> None:
    """`torch.compile` around jvp may raise, but must not return a wrong result, for example zero."""
    case = Case("compiled", transposed=transposed)
    name = "conv_transpose2d" if transposed else "conv2d"
    x, weight, _ = case.operands(torch.float64)
    tangent = torch.randn_like(x)

    def derivative(module: Any) -> Function:
        return lambda t: torch.func.jvp(lambda v: getattr(module, name)(v, weight), (x,), (t,))[1]

    torch._dynamo.reset()
    try:
        actual = torch.compile(derivative(tritonconv), backend="aot_eager")(tangent)
    except Exception:  # the compiler may raise any class
        return
    assert_same(actual, derivative(torch.nn.functional)(tangent))
