"""The fast path beside `torch.compile` and compiled autograd, which trace the operators, and must see each of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.compiled import nothing_compiled  # noqa: F401
from tests.support.fast_path import same_bits
from tests.support.training import network
from tests.support.ways import without_fast_path

pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.oldest,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

BACKENDS = ("eager", "aot_eager")


class Backend:
    """Compiles as the backend of this name does. `called` lists the operators of tritonconv in the graphs so far."""

    def __init__(self, name: str) -> None:
        self.compiler: Any = torch._dynamo.lookup_backend(name)
        self.called: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any, **more: Any) -> Any:
        self.called += [str(node.target) for node in graph.graph.nodes if "tritonconv" in str(node.target)]
        return self.compiler(graph, inputs, **more)


def images(device: str, number: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, 3, 5, 5, generator=generator).to(device).requires_grad_()


def step(
    call: Callable[[Tensor], Tensor],
    model: nn.Module,
    x: Tensor,
    in_forward: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
    in_backward: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
) -> list[Tensor]:
    """Return the result of `call`, which calls `model`, and all gradients."""
    leaves = [x, *model.parameters()]
    with in_forward:
        y = call(x)
        loss = y.square().mean()
    with in_backward:
        loss.backward()
    found = [each.grad for each in leaves if each.grad is not None]
    assert len(found) == len(leaves)
    for each in leaves:
        each.grad = None
    return [y.detach(), *found]


def long(model: nn.Module, x: Tensor, in_forward: AbstractContextManager[Any] = nullcontext()) -> list[Tensor]:  # noqa: B008
    """Return what `step` returns by the long way."""
    with without_fast_path():
        return step(model, model, x, in_forward)


def warm_up(model: nn.Module, device: str, long_ways: list[str]) -> None:
    """Take the steps after which both passes of a step are fast, and assert that they are."""
    for _ in range(2):
        step(model, model, images(device))
    assert_fast(model, device, long_ways)


def assert_fast(model: nn.Module, device: str, long_ways: list[str]) -> None:
    long_ways.clear()
    step(model, model, images(device))
    assert not long_ways


def compiled_autograd(backend: Any, fullgraph: bool = True) -> AbstractContextManager[Any]:
    """Compile the backward passes in this block."""
    found: AbstractContextManager[Any] = torch._dynamo.compiled_autograd._enable(
        torch.compile(backend=backend, fullgraph=fullgraph)
    )
    return found


@pytest.mark.parametrize(("backend", "fullgraph"), [("eager", False), ("aot_eager", True)])
def test_backward_is_compiled(backend: str, fullgraph: bool, device: str, long_ways: list[str]) -> None:
    """The graph of a backward pass has an operator for each gradient. The same graph is right for other images."""
    model, compiler = network(device), Backend(backend)
    expected = [long(model, images(device, number)) for number in range(2)]
    warm_up(model, device, long_ways)
    for number in range(2):
        found = step(model, model, images(device, number), in_backward=compiled_autograd(compiler, fullgraph))
        assert same_bits(found, expected[number])
    assert not long_ways
    assert sorted(compiler.called) == [
        "tritonconv.dgrad.default",
        "tritonconv.fprop.default",
        "tritonconv.wgrad.default",
        "tritonconv.wgrad_with_bias.default",
    ]
    assert_fast(model, device, long_ways)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_is_compiled_by_a_setting(backend: str, device: str, long_ways: list[str]) -> None:
    """With `torch._dynamo.config.compiled_autograd`, a compiled function compiles the backward passes it begins."""
    model, compiler, x = network(device), Backend(backend), images(device)
    expected = long(model, images(device))
    warm_up(model, device, long_ways)
    eager = torch.compiler.disable(model)

    def train() -> Tensor:
        y: Tensor = eager(x)
        y.square().mean().backward()
        return y

    with torch._dynamo.config.patch(compiled_autograd=True):
        y = torch.compile(train, backend=compiler)()
    gradients = [each.grad for each in (x, *model.parameters()) if each.grad is not None]
    assert same_bits([y, *gradients], expected)
    assert not long_ways
    assert "tritonconv.wgrad.default" in compiler.called
    assert_fast(model, device, long_ways)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_is_compiled_after_it_ran(backend: str, device: str, long_ways: list[str]) -> None:
    """Its one graph has the operators. It computes the same bits, and the block stays fast outside of it."""
    model, compiler = network(device), Backend(backend)
    expected = long(model, images(device, 1))
    warm_up(model, device, long_ways)
    compiled = torch.compile(model, backend=compiler, fullgraph=True)
    for _ in range(2):
        assert same_bits(step(compiled, model, images(device, 1)), expected)
    assert compiler.called[:2] == ["tritonconv.fprop.default", "tritonconv.dgrad.default"]
    assert_fast(model, device, long_ways)


@pytest.mark.parametrize("backend", BACKENDS)
def test_between_graphs_it_is_fast(backend: str, device: str, long_ways: list[str]) -> None:
    """One layer is compiled, and one is kept out of the graph. The latter takes the fast path, forward and backward."""
    model, compiler = network(device), Backend(backend)
    expected = long(model, images(device, 1))
    warm_up(model, device, long_ways)
    eager = torch.compiler.disable(model[2])

    def broken(x: Tensor) -> Tensor:
        y = model[1](model[0](x))
        torch._dynamo.graph_break()
        return eager(y) + 0

    compiled = torch.compile(broken, backend=compiler)
    for _ in range(2):
        assert same_bits(step(compiled, model, images(device, 1)), expected)
    assert "tritonconv.fprop.default" in compiler.called
    assert "forward" not in long_ways
    assert_fast(model, device, long_ways)


def doubled() -> AbstractContextManager[Any]:
    """Return saved-tensor hooks that give backward twice what was saved, so that it matters that they are called."""
    return torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.clone(), lambda packed: 2 * packed)


@pytest.mark.parametrize("backend", ["", *BACKENDS])
def test_saved_tensor_hooks(backend: str, device: str, long_ways: list[str]) -> None:
    """Backward gets what they unpack, in eager mode and compiled."""
    model, x = network(device), images(device)
    expected, without = long(model, x, doubled()), long(model, x)
    assert not same_bits(expected, without)
    warm_up(model, device, long_ways)
    compiler = Backend(backend or "eager")
    in_backward = compiled_autograd(compiler) if backend else nullcontext()
    assert same_bits(step(model, model, x, doubled(), in_backward), expected)
    assert not long_ways
    assert bool(compiler.called) == bool(backend)
    assert same_bits(step(model, model, x), without)


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_tensor_hooks_around_a_compiled_block(backend: str, device: str, long_ways: list[str]) -> None:
    """A layer beside the compiled block takes the fast path, and both get what the hooks unpack."""
    model = network(device)
    warm_up(model, device, long_ways)
    compiled = torch.compile(model[0], backend=backend, fullgraph=True)
    found = step(lambda t: model[2](model[1](compiled(t))), model, images(device), doubled())
    assert not long_ways
    assert same_bits(found, long(model, images(device), doubled()))
