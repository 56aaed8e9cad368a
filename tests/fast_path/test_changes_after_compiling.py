"""Changes of a layer, or of the mode, after the layer ran in a compiled function. They take effect."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.compiled import nothing_compiled  # noqa: F401
from tests.support.training import images, network
from tests.support.ways import without_fast_path
from tritonconv.launch import bounded_cache

pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.oldest,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


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
    x, inner = images(0, device).requires_grad_(), torch.compiler.disable(model) if kept_out else model
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
    model, x = network(device), images(0, device).requires_grad_()
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
