"""The fast path beside `torch.compile` and compiled autograd, which trace the operators, and must see each of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.ways import without_fast_path
from tritonconv.launch import bounded_cache

pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.oldest,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

BACKENDS = ("eager", "aot_eager")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Start and end with nothing compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Backend:
    """Compiles as the backend of this name does. `called` lists the operators of tritonconv in the graphs so far."""

    def __init__(self, name: str) -> None:
        self.compiler: Any = torch._dynamo.lookup_backend(name)
        self.called: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any, **more: Any) -> Any:
        self.called += [str(node.target) for node in graph.graph.nodes if "tritonconv" in str(node.target)]
        return self.compiler(graph, inputs, **more)


def network(device: str) -> nn.Sequential:
    """Return two layers with an activation between them, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(tritonconv.Conv2d(3, 4, 3), nn.ReLU(), tritonconv.ConvTranspose2d(4, 2, 2)).to(device)


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


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


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


def in_place(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.mul_(2)


def replaced(model: Any) -> None:
    model[0].weight = nn.Parameter(torch.flip(model[0].weight.detach(), (0,)))


def another_layout(model: Any) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().contiguous(memory_format=torch.channels_last))


def another_stride(model: Any) -> None:
    model[0].stride = (2, 2)


def another_padding(model: Any) -> None:
    model[2].padding = (1, 1)


def frozen(model: Any) -> None:
    model[0].weight.requires_grad_(False)


def trainable(model: Any) -> None:
    """Let the weight be trained, which is frozen before this change alone."""
    model[0].weight.requires_grad_()


def forgotten(model: Any) -> None:
    bounded_cache.clear()


CHANGES = (in_place, replaced, another_layout, another_stride, another_padding, frozen, trainable, forgotten)


@pytest.mark.parametrize(
    ("change", "kept_out"),
    [*((change, True) for change in CHANGES), *((change, False) for change in (replaced, another_stride, forgotten))],
    ids=lambda value: value if isinstance(value, bool) else value.__name__,
)
def test_nothing_stale_is_compiled(change: Callable[[Any], None], kept_out: bool, device: str) -> None:
    """A change of a layer after it was compiled takes effect, as it does in eager mode, also if it is kept out."""
    model: Any = network(device)
    model[0].weight.requires_grad_(change is not trainable)
    x, inner = images(device), torch.compiler.disable(model) if kept_out else model
    compiled = torch.compile(lambda t: inner(t) * 1, backend="eager")

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y.square().mean(), [t for t in (x, *model.parameters()) if t.requires_grad])

    for _ in range(3):
        before = compiled(x)
        gradients(before)
    change(model)
    with without_fast_path():
        expected = model(x)
    assert (expected.shape == before.shape and torch.equal(expected, before)) == (
        change in (another_layout, frozen, trainable, forgotten)
    )
    assert torch.equal(compiled(x), expected)
    assert all(map(torch.equal, gradients(compiled(x)), gradients(expected)))


@pytest.mark.parametrize("name", ["using", "autocast"])
def test_modes_are_not_compiled_in(name: str, device: str, long_ways: list[str]) -> None:
    """A layer that is kept out of the graph follows the modes of the moment."""
    modes: dict[str, Callable[[], Any]] = {
        "using": lambda: tritonconv.using("reference"),
        "autocast": lambda: torch.autocast(device, torch.bfloat16),
    }
    model, x = network(device), images(device)
    eager = torch.compiler.disable(model)
    compiled = torch.compile(lambda t: eager(t) * 1, backend="eager")
    outside = compiled(x)
    with modes[name]():
        inside, expected = compiled(x), model(x)
        long_ways.clear()
        again = compiled(x)
    assert torch.equal(inside, expected)
    assert torch.equal(again, expected)
    assert inside.dtype == expected.dtype == (torch.bfloat16 if name == "autocast" else torch.float32)
    assert long_ways == (["forward"] * 2 if name == "using" else [])
    assert torch.equal(compiled(x), outside)


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
