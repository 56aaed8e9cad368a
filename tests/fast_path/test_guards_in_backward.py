"""A backward pass that was made before goes the long way if anything is active that must see it, in backward alone.

All that forward has asked is asked again. Either way the gradients have the same bits, and the errors are the same.
"""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from tests.support.fast_path import (
    CONV2D,
    Kept,
    SeesFunctions,
    SeesOperators,
    assert_as_the_long_way,
    assert_identical,
    assert_same_error,
    gradients,
)
from tests.support.ways import Repeated, repeated

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def test_the_mode_of_fake_tensors_sees_backward_alone(kept_conv2d: Kept) -> None:
    y = kept_conv2d.forward()
    with FakeTensorMode(allow_non_fake_inputs=True), repeated() as count:
        found = gradients(kept_conv2d, y, kept_conv2d.gradient)
    assert count == Repeated()
    assert {type(t) for t in found} == {torch._subclasses.FakeTensor}


def test_batches_of_gradients_go_the_long_way(kept: Kept) -> None:
    """`is_grads_batched` maps backward over several gradients."""
    y = kept.forward()
    batch = torch.stack([kept.gradient, 2 * kept.gradient])

    def run() -> list[Tensor]:
        return [*torch.autograd.grad(y, kept.operands, batch, retain_graph=True, is_grads_batched=True)]

    found = assert_as_the_long_way(run)
    assert_identical([2 * t[0] for t in found], [t[1] + 0 for t in found])


def test_vmap_around_backward_alone(kept_conv2d: Kept) -> None:
    y = kept_conv2d.forward()
    batch = torch.stack([kept_conv2d.gradient, 2 * kept_conv2d.gradient])
    assert_as_the_long_way(lambda: [*torch.vmap(lambda each: tuple(gradients(kept_conv2d, y, each)))(batch)])
    assert_as_the_long_way(
        lambda: [*torch.vmap(lambda _: tuple(gradients(kept_conv2d, y, kept_conv2d.gradient)))(torch.zeros(2))]
    )


def test_a_vectorized_jacobian(kept_conv2d: Kept) -> None:
    input, weight, bias = kept_conv2d.operands

    def jacobian(vectorize: bool) -> Tensor:
        return torch.autograd.functional.jacobian(
            lambda w: CONV2D(input.detach(), w, bias.detach())[0, 0, 0], weight.detach(), vectorize=vectorize
        )

    found = assert_as_the_long_way(lambda: jacobian(True), forward=1)
    torch.testing.assert_close(found, jacobian(False))


@pytest.mark.parametrize("mode", [SeesOperators, SeesFunctions])
def test_modes_see_backward_alone(kept: Kept, mode: type[SeesOperators | SeesFunctions]) -> None:
    """A mode sees the same operators and functions as in the long way."""
    seen: list[list[str]] = []

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in kept.operands]
        y = kept.problem(*leaves)
        with mode() as active:  # `backward` itself is a function, within which no mode for functions is active
            torch.autograd.Variable._execution_engine.run_backward(
                (y,), (kept.gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
        seen.append(active.seen)
        return [t.grad for t in leaves]

    assert_as_the_long_way(run, forward=1)
    assert seen[0] == seen[1]
    assert any("tritonconv.wgrad" in each for each in seen[0])


def test_a_function_mode_sees_backward_as_a_whole(kept_conv2d: Kept) -> None:
    """It is not active within, so the fast path is taken."""
    seen: list[list[str]] = []

    def run() -> list[Tensor]:
        y = kept_conv2d.forward()
        with SeesFunctions() as active:
            found = gradients(kept_conv2d, y, kept_conv2d.gradient)
        seen.append(active.seen)
        return found

    assert_as_the_long_way(run, forward=1, backward=1)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1


def test_modes_see_forward_alone(kept: Kept) -> None:
    """The backward of a forward pass in a mode goes the long way, too: forward decides which node autograd has."""
    for mode in (SeesOperators, SeesFunctions):

        def run(mode: type[SeesOperators | SeesFunctions] = mode) -> list[Tensor]:
            with mode():
                y = kept.forward()
            return gradients(kept, y, kept.gradient)

        assert_as_the_long_way(run)
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_flops_of_backward_alone_are_counted(kept: Kept) -> None:
    counts = []

    def run() -> list[Tensor]:
        y = kept.forward()
        with FlopCounterMode(display=False) as counter:
            found = gradients(kept, y, kept.gradient)
        counts.append(counter.get_flop_counts())
        return found

    assert_as_the_long_way(run, forward=1)
    assert counts[0] == counts[1]
    assert len(counts[0]["Global"]) == 2
    assert all(flops > 0 for flops in counts[0]["Global"].values())


def test_a_default_device_leaves_the_fast_path_of_backward(kept_conv2d: Kept) -> None:
    y = kept_conv2d.forward()
    for default in ("cpu", "meta"):
        with torch.device(default):
            assert_as_the_long_way(lambda: gradients(kept_conv2d, y, kept_conv2d.gradient), backward=1)


def test_a_level_of_forward_mode_around_backward_alone(kept_conv2d: Kept) -> None:
    """Also without a tangent."""
    y = kept_conv2d.forward()
    with forward_ad.dual_level():
        assert_as_the_long_way(lambda: gradients(kept_conv2d, y, kept_conv2d.gradient))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_compiled_autograd_has_one_graph(kept: Kept) -> None:
    """The compiler traces backward alone. `fullgraph` lets nothing through that it can not trace."""

    def run() -> list[Tensor]:
        torch._dynamo.reset()
        leaves = [t.detach().requires_grad_() for t in kept.operands]
        y = kept.problem(*leaves)
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
            y.backward(kept.gradient)
        return [t.grad for t in leaves]

    assert_as_the_long_way(run, forward=1)


def test_traced_graphs_of_backward_have_the_operators(kept_conv2d: Kept) -> None:
    y = kept_conv2d.forward()
    with repeated() as count:
        graph = make_fx(lambda each: gradients(kept_conv2d, y, each))(kept_conv2d.gradient)
    assert count == Repeated()
    assert "tritonconv.wgrad_with_bias.default" in graph.code
    assert "tritonconv.dgrad.default" in graph.code
    other = torch.randn_like(kept_conv2d.gradient)
    with torch.no_grad():  # the operands are constants of the graph, and require gradients
        assert_identical(graph(other), gradients(kept_conv2d, y, other))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_no_constant_gradient_gets_into_a_trace_of_jit(kept_conv2d: Kept) -> None:
    """`torch.jit.trace` refuses saved tensors that require gradients. It would take a gradient that it has not seen."""
    y = kept_conv2d.forward()

    @torch.no_grad()
    def of_weight(gradient: Tensor) -> Tensor:
        return y.grad_fn.apply(gradient)[1]

    assert_as_the_long_way(lambda: of_weight(kept_conv2d.gradient), backward=1)
    assert_same_error(
        lambda: torch.jit.trace(of_weight, (kept_conv2d.gradient,), check_trace=False),
        "Cannot insert a Tensor that requires grad as a constant",
    )


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # torch 2.11's own
@pytest.mark.parametrize("profiler", [torch.profiler.profile, torch.autograd.profiler.profile])
def test_profilers_see_backward_alone(kept_conv2d: Kept, profiler: type) -> None:
    y = kept_conv2d.forward()
    with repeated() as count, profiler(record_shapes=True) as profile:
        found = gradients(kept_conv2d, y, kept_conv2d.gradient)
    assert count == Repeated()
    events = profile.events() if profiler is torch.profiler.profile else profile.function_events
    shapes = {each.name: each.input_shapes[:2] for each in events if each.name.startswith("tritonconv::")}
    x, weight, _, features = map(list, CONV2D.shapes)
    assert shapes == {"tritonconv::wgrad_with_bias": [x, features], "tritonconv::dgrad": [features, weight]}
    assert_identical(found, kept_conv2d.step()[1:])


def test_autograd_may_be_excluded_around_backward(kept: Kept) -> None:
    """Backward records nothing, so this changes nothing."""
    y = kept.forward()
    with torch._C._AutoDispatchBelowAutograd():
        assert_as_the_long_way(lambda: gradients(kept, y, kept.gradient), backward=1)
