"""A call that was made before goes the long way where torch differentiates, maps, compiles, traces or profiles it.

These must see the operator. Either way the call gives the same bits, the same gradients and the same errors.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from tests.support.fast_path import CONV2D, Kept, assert_as_the_long_way, assert_identical, assert_same_error
from tests.support.ways import Repeated, repeated

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def test_dual_numbers_go_the_long_way(kept_conv2d: Kept) -> None:
    tangents = [torch.randn_like(t) for t in kept_conv2d.operands]

    def run() -> list[Tensor]:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t.detach(), each) for t, each in zip(kept_conv2d.operands, tangents, strict=True)
            ]
            return [*forward_ad.unpack_dual(kept_conv2d.problem(*duals))]

    _, tangent = assert_as_the_long_way(run)
    assert tangent is not None


def test_a_level_of_forward_mode_goes_the_long_way(kept_conv2d: Kept) -> None:
    """Also without a tangent."""
    with forward_ad.dual_level():
        assert_as_the_long_way(kept_conv2d.forward)


def grad(kept: Kept) -> tuple[Tensor, ...]:
    return torch.func.grad(lambda *o: (kept.problem(*o) * kept.gradient).sum(), (0, 1, 2))(*kept.operands)


def vjp(kept: Kept) -> tuple[Tensor, ...]:
    _, pull_back = torch.func.vjp(kept.problem, *kept.operands)
    return pull_back(kept.gradient)


def jvp(kept: Kept) -> tuple[Tensor, ...]:
    return torch.func.jvp(kept.problem, tuple(kept.operands), tuple(t.detach() for t in kept.operands))


def vmap(kept: Kept) -> Tensor:
    input, weight, bias = kept.operands
    return torch.vmap(kept.problem, (None, 0, None))(input, torch.stack([weight, weight]), bias)


def vmap_over_other_tensors(kept: Kept) -> Tensor:
    return torch.vmap(lambda _: kept.problem(*kept.operands))(torch.zeros(2))


TRANSFORMS = [grad, vjp, jvp, vmap, vmap_over_other_tensors]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_go_the_long_way(kept: Kept, transform: Callable[[Kept], Any]) -> None:
    assert_as_the_long_way(lambda: transform(kept))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
def test_compiled_functions_have_one_graph(kept: Kept) -> None:
    """`fullgraph` lets nothing through that the compiler can not trace."""
    torch._dynamo.reset()
    compiled = torch.compile(kept.problem.function, backend="eager", fullgraph=True)

    def step() -> list[Tensor]:
        y = compiled(*kept.operands, **kept.problem.more)
        return [y, *kept.gradients(y)]

    assert_as_the_long_way(step)


class Model(nn.Module):
    """A layer as a module, for `torch.export`."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        _, weight, bias = kept.operands
        self.weight, self.bias, self.problem = nn.Parameter(weight.detach()), nn.Parameter(bias.detach()), kept.problem

    def forward(self, x: Tensor) -> Tensor:
        return self.problem(x, self.weight, self.bias)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_have_the_operator(kept_conv2d: Kept, strict: bool) -> None:
    torch._dynamo.reset()
    x = kept_conv2d.operands[0].detach()
    with repeated() as count:
        program = torch.export.export(Model(kept_conv2d), (x,), strict=strict)
    assert count == Repeated()
    assert "tritonconv.fprop.default" in str(program.graph)
    other = torch.randn_like(x)
    assert_identical(program.module()(other), kept_conv2d.problem(other, *kept_conv2d.operands[1:]))


@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
def test_traced_graphs_have_the_operator(kept_conv2d: Kept, tracing: str) -> None:
    operands = [t.detach() for t in kept_conv2d.operands]
    with repeated() as count:
        graph = make_fx(kept_conv2d.problem, tracing_mode=tracing)(*operands)
    assert count == Repeated()
    assert "tritonconv.fprop.default" in graph.code
    other = [torch.randn_like(operands[0]), *operands[1:]]
    assert_identical(graph(*other), kept_conv2d.problem(*other))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_no_constant_gets_into_a_trace_of_jit(kept: Kept) -> None:
    """A trace would have the sizes of the result as constants. Without the operator, the result would be one itself."""
    operands = tuple(t.detach() for t in kept.operands)
    assert_same_error(
        lambda: torch.jit.trace(kept.problem.__call__, operands, check_trace=False), "torch.jit.trace would record"
    )


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # torch 2.11's own
def test_profilers_see_the_operator_with_its_shapes(kept_conv2d: Kept) -> None:
    events: list[list[Any]] = []

    def step() -> list[Tensor]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            found = kept_conv2d.step()
        events.append([each for each in profile.events() if each.name.startswith("tritonconv::")])
        return found

    assert_as_the_long_way(step)
    assert [(e.name, e.input_shapes) for e in events[0]] == [(e.name, e.input_shapes) for e in events[1]]
    assert [*map(list, kept_conv2d.problem.shapes[:3])] == events[0][0].input_shapes[:3]
    assert len({each.name for each in events[0]}) >= 2  # of forward and of backward


def test_the_profiler_of_autograd_sees_the_operator(kept_conv2d: Kept) -> None:
    with torch.autograd.profiler.profile(record_shapes=True) as profile, repeated() as count:
        kept_conv2d.forward()
    assert count == Repeated()
    shapes = [each.input_shapes[:3] for each in profile.function_events if each.name == "tritonconv::fprop"]
    assert [*map(list, CONV2D.shapes[:3])] in shapes
