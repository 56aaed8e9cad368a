"""A call that was made before goes the long way if anything is active that must see it, and else the fast path.

Either way it gives the same bits, the same gradients and the same errors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from tests.support.fast_path import (
    CONV2D,
    PROBLEMS,
    Kept,
    SeesFunctions,
    SeesOperators,
    Wrapper,
    assert_as_the_long_way,
    assert_identical,
    assert_same_error,
    drawn,
)
from tests.support.processes import python
from tests.support.ways import Repeated, repeated

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


class Subclass(Tensor):
    """A subclass with torch's default `__torch_function__`."""


class WithoutFunction(Tensor):
    """A subclass whose functions return plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class SpecialParameter(nn.Parameter):
    """A subclass of Parameter."""


TYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "subclass": lambda t: t.detach().as_subclass(Subclass).requires_grad_(),
    "without_function": lambda t: t.detach().as_subclass(WithoutFunction).requires_grad_(),
    "special_parameter": lambda t: SpecialParameter(t.detach()),
    "parameter_of_a_subclass": lambda t: nn.Parameter(t.detach().as_subclass(Subclass)),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_operands_of_other_types_go_the_long_way(kept_conv2d: Kept, kind: str, place: int) -> None:
    operands = list(kept_conv2d.operands)
    operands[place] = TYPES[kind](operands[place])
    step = assert_as_the_long_way(lambda: kept_conv2d.problem.step(operands, kept_conv2d.gradient))
    assert (type(step[0]) is Subclass) == ("subclass" in kind)


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_wrappers_see_the_operator(kept_conv2d: Kept, place: int) -> None:
    operands = list(kept_conv2d.operands)
    operands[place] = Wrapper(operands[place])

    def step() -> list[Any]:
        found = kept_conv2d.problem.step(operands, kept_conv2d.gradient)
        assert type(found[0]) is Wrapper
        return [t.held if isinstance(t, Wrapper) else t for t in found]

    assert_as_the_long_way(step)


def test_parameters_and_tensors_take_the_fast_path(kept: Kept) -> None:
    input, weight, bias = (t.detach() for t in kept.operands)
    operands = [input.requires_grad_(), nn.Parameter(weight), nn.Buffer(bias).requires_grad_()]
    assert_as_the_long_way(lambda: kept.problem.step(operands, kept.gradient), forward=1, backward=1)


@pytest.mark.parametrize("within", [False, True])
def test_fake_tensors_go_the_long_way(kept_conv2d: Kept, within: bool) -> None:
    """Within their mode and outside of it."""

    def step() -> list[Tensor]:
        with FakeTensorMode() as mode:
            operands = [mode.from_tensor(t) for t in kept_conv2d.operands]
            gradient = mode.from_tensor(kept_conv2d.gradient)
        with mode if within else nullcontext():
            return kept_conv2d.problem.step(operands, gradient)

    with repeated() as count:
        found = step()
    assert count == Repeated()
    for one, other in zip(found, kept_conv2d.step(), strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )
    assert all(isinstance(t, torch._subclasses.FakeTensor) for t in found)


def test_functional_tensors_go_the_long_way(kept_conv2d: Kept) -> None:
    """Those that `torch.compile` makes of graphs with changes in place."""

    def run() -> Tensor:
        with torch.no_grad():
            operands = [torch._to_functional_tensor(t) for t in kept_conv2d.operands]
            y = kept_conv2d.problem(*operands)
            assert torch._is_functional_tensor(y)
            return torch._from_functional_tensor(y)

    assert_as_the_long_way(run)


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_negative_views_go_the_long_way(device: str, place: int) -> None:
    """Imaginary parts of conjugate tensors: the memory holds the numbers with the other sign."""
    complex_one = drawn(*CONV2D.shapes[place], device=device, dtype=torch.complex64)
    operands = CONV2D.operands(device)
    operands[place] = complex_one.imag.requires_grad_()
    gradient = CONV2D.gradient(device)
    CONV2D.keep(operands, gradient)
    negative = complex_one.conj().imag
    assert negative.is_neg()
    assert (negative.data_ptr(), negative.stride()) == (operands[place].data_ptr(), operands[place].stride())
    opposite = [*operands]
    opposite[place] = negative.requires_grad_()
    found = assert_as_the_long_way(lambda: CONV2D.step(opposite, gradient))
    opposite[place] = (-complex_one.imag).requires_grad_()
    torch.testing.assert_close(found, CONV2D.step(opposite, gradient))


def test_conjugate_views_go_the_long_way(device: str) -> None:
    input, weight, bias = CONV2D.operands(device, torch.complex64)
    operands = [input, weight.detach().conj().requires_grad_(), bias]
    assert operands[1].is_conj()
    gradient = CONV2D.gradient(device, torch.complex64)
    for _ in range(2):
        assert_as_the_long_way(lambda: CONV2D.step(operands, gradient))


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_zero_tensors_go_the_long_way(kept_conv2d: Kept, place: int, device: str) -> None:
    """Tensors that autograd makes for gradients of zero have no memory."""
    operands = list(kept_conv2d.operands)
    operands[place] = torch._efficientzerotensor(operands[place].shape, device=device)
    found = assert_as_the_long_way(lambda: kept_conv2d.problem(*operands))
    operands[place] = torch.zeros(operands[place].shape, device=device)
    assert torch.equal(found, kept_conv2d.problem(*operands))


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_sparse_tensors_are_refused_as_before(kept_conv2d: Kept, place: int) -> None:
    operands = [t.detach() for t in kept_conv2d.operands]
    operands[place] = operands[place].to_sparse()
    assert_same_error(lambda: kept_conv2d.problem(*operands), "[Ss]parse|storage")


def test_tensors_without_data_go_the_long_way(kept_conv2d: Kept) -> None:
    operands = [t.detach().to("meta").requires_grad_() for t in kept_conv2d.operands]
    assert_as_the_long_way(lambda: kept_conv2d.problem.step(operands, kept_conv2d.gradient.to("meta")))


@pytest.mark.parametrize("mode", [SeesOperators, SeesFunctions])
def test_modes_see_the_operator(kept: Kept, mode: Any) -> None:
    """A mode around a step sees all that it sees of the long way, and the operators among it."""
    seen: list[list[str]] = []

    def step() -> list[Tensor]:
        with mode() as active:
            found = kept.step()
        seen.append(active.seen)
        return found

    assert_as_the_long_way(step)
    assert seen[0] == seen[1]
    if mode is SeesOperators:
        of_forward = "dgrad" if kept.problem is PROBLEMS["conv_transpose2d"] else "fprop"
        assert f"tritonconv.{of_forward}.default" in seen[0]
        assert any(f"tritonconv.{name}.default" in seen[0] for name in ("wgrad", "wgrad_with_bias"))


def test_a_mode_ends_with_its_block(kept_conv2d: Kept) -> None:
    for mode in (SeesOperators(), SeesFunctions(), FlopCounterMode(display=False)):
        with mode:
            kept_conv2d.step()
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_flops_are_counted(kept: Kept) -> None:
    counts: list[dict[str, dict[Any, int]]] = []

    def step() -> list[Tensor]:
        with FlopCounterMode(display=False) as counter:
            found = kept.step()
        counts.append(counter.get_flop_counts())
        return found

    assert_as_the_long_way(step)
    assert counts[0] == counts[1]
    assert len(counts[0]["Global"]) >= 2
    assert all(flops > 0 for flops in counts[0]["Global"].values())


def test_the_mode_of_fake_tensors_sees_the_call(kept_conv2d: Kept) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = assert_as_the_long_way(kept_conv2d.forward)
    assert isinstance(found, torch._subclasses.FakeTensor)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Set the default device within this block."""
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None if before == torch.device("cpu") else before)


@pytest.mark.parametrize("block", [torch.device, default_device])
@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_a_default_device_leaves_the_fast_path(kept_conv2d: Kept, block: Any, default: str) -> None:
    """No result or gradient is allocated on the default device."""
    with block(default):
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_default_devices_in_each_other_leave_the_fast_path(kept_conv2d: Kept) -> None:
    with torch.device("cpu"), torch.device("meta"):
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_without_a_question_to_torch_all_calls_go_the_long_way(tmp_path: Path) -> None:
    """The questions are private to torch. A version that lacks one of them still computes."""
    code = """
import torch
del torch._C._dispatch_tls_is_dispatch_key_excluded
import tritonconv
from tritonconv.fast_path import forward, guards
operands = [torch.ones(shape, requires_grad=True) for shape in ((1, 2, 3, 3), (4, 2, 2, 2), (4,))]
sums = [tritonconv.conv2d(*operands).sum() for _ in range(3)]
[total.backward() for total in sums]
print(guards.AVAILABLE, len(forward.kept_forwards.entries), *map(float, sums), float(operands[2].grad.sum()))
"""
    done = python("-c", code, cwd=tmp_path, TRITON_INTERPRET="1")
    assert done.stdout.split() == ["False", "0", "144.0", "144.0", "144.0", "48.0"], done.stderr


def test_a_default_device_beside_a_mode_goes_the_long_way(kept_conv2d: Kept) -> None:
    for outer, inner in ((torch.device("cpu"), SeesFunctions()), (SeesFunctions(), torch.device("cpu"))):
        with outer, inner:
            assert_as_the_long_way(kept_conv2d.step)


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


def test_tensors_that_have_left_their_transform_go_the_long_way(kept_conv2d: Kept) -> None:
    """What a function in a transform has leaked is a wrapper of functorch, though its type is Tensor."""
    leaked: list[Tensor] = []

    def leaking(weight: Tensor) -> Tensor:
        leaked.append(weight)
        return weight.sum()

    torch.func.grad(leaking)(kept_conv2d.operands[1].detach())
    input, _, bias = kept_conv2d.operands
    assert type(leaked[0]) is Tensor
    assert_as_the_long_way(lambda: kept_conv2d.problem(input, leaked[0], bias))


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


def test_below_autograd_nothing_is_recorded(kept_conv2d: Kept) -> None:
    with torch._C._AutoDispatchBelowAutograd():
        y = assert_as_the_long_way(kept_conv2d.forward)
    assert y.grad_fn is None
    assert not y.requires_grad


def test_the_body_of_a_custom_operator_records_nothing(kept_conv2d: Kept) -> None:
    """The body runs below autograd, and its weight, which it does not get as an argument, requires a gradient."""
    _, weight, bias = kept_conv2d.operands
    name = "tritonconv_test_of_guards::layer"

    @torch.library.custom_op(name, mutates_args=())
    def layer(x: Tensor) -> Tensor:
        y = kept_conv2d.problem(x, weight, bias)
        assert not y.requires_grad
        return y

    assert_as_the_long_way(lambda: layer(kept_conv2d.operands[0].detach()))
