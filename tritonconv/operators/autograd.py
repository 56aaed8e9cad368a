"""The derivatives of the operators: each one's are the others.

The form is linear in each of its factors x, weight and y. An operator leaves one out; its derivative by another puts
the incoming gradient in the place of the one and leaves out the other. That sentence is `contract` below, and all the
calculus there is. The bias is the filter of a channel that is one everywhere, so its gradient belongs to the weight's,
and where both are wanted `wgrad_with_bias` finds them together.

The table is stated once and wrapped twice: as the operators' own autograd kernels, which `torch.compile` and
`torch.export` can trace, and as Functions that also know forward mode, for the transforms of `torch.func`.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from tritonconv.bias import broadcastable, letters_of, sum_for
from tritonconv.call import OPERATOR_NAMES, OPERATOR_OF, Settings, join_arguments, split_arguments
from tritonconv.geometry import COMPUTED_BY, LEAVES_OUT, TAKES, Factor, Operator, taken
from tritonconv.operators.library import library, torch_operators

Apply = Callable[..., Any]


def contract(
    applies: dict[str, Apply],
    left_out: Factor,
    factors: dict[Factor, Tensor],
    settings: Settings,
    bias: Tensor | None = None,
) -> Tensor:
    """Sum the form over all but the factor `left_out`, and add `bias`, unless to a weight."""
    operator = COMPUTED_BY[left_out]
    result: Tensor = applies[operator](*join_arguments(operator, taken(operator, factors), bias, settings))
    return result


def remember(ctx: Any, tensors: Sequence[Any], settings: Settings) -> None:
    """Keep the two factors, as the user's tensors, over what the bias varies, if there is one, and the settings."""
    first, second, *bias = tensors
    ctx.settings, ctx.takes_bias = settings, bool(bias)
    ctx.bias_letters = letters_of(bias[0]) if bias and bias[0] is not None else ""
    ctx.save_for_backward(first, second)


def held_by(name: str, ctx: Any) -> dict[Factor, Tensor]:
    """The factors that a call of the operator `name` took."""
    return dict(zip(TAKES[OPERATOR_OF[name]], ctx.saved_tensors, strict=True))


def pull_back(
    name: str, applies: dict[str, Apply], ctx: Any, gradient: Tensor, bias_gradient: Tensor | None = None
) -> list[Tensor | None]:
    """The gradients of the tensors that require one, from those of the results. That of the weight comes first: its
    partial sums are gone before the other, which usually is larger, is there.
    """
    held = held_by(name, ctx)
    factors = {LEAVES_OUT[OPERATOR_OF[name]]: gradient} | {factor: tensor.conj() for factor, tensor in held.items()}
    needed = dict(zip((*held, "bias"), ctx.needs_input_grad, strict=False))
    found: dict[str, Tensor] = {}
    if name == "fprop" and needed["weight"] and needed["bias"] and not ctx.settings.varies:
        settings = ctx.settings._replace(size=held["weight"].shape[-2:])
        found["weight"], found["bias"] = applies["wgrad_with_bias"](factors["x"], factors["y"], *settings)
    elif ctx.takes_bias and needed["bias"]:
        found["bias"] = sum_for(ctx.bias_letters, gradient)
    for factor in sorted(held, key=lambda factor: factor != "weight"):
        if needed[factor] and factor not in found:
            settings = ctx.settings._replace(size=held[factor].shape[-2:])
            # The gradient of the sum of y, which wgrad_with_bias also returns, is added to y's at every position.
            added = bias_gradient if factor == "y" else None
            found[factor] = contract(applies, factor, factors, settings, added)
    return [found.get(factor) for factor in (*held, *["bias"] * ctx.takes_bias)]


def push_forward(name: str, applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> Tensor:
    """The tangent of the result, from those of the inputs: the product rule.

    Where an input has none torch hands over zeros; only a bias that is not there has None.
    """
    held = held_by(name, ctx)
    first, second, *others = tangents
    terms = [
        contract(applies, LEAVES_OUT[OPERATOR_OF[name]], held | {factor: tangent}, ctx.settings)
        for factor, tangent in zip(held, (first, second), strict=True)
    ]
    if ctx.takes_bias and others[0] is not None:
        batch = ctx.saved_tensors[0].shape[0]
        terms.append(broadcastable(others[0]).expand(batch, -1, *ctx.settings.size).clone())
    return reduce(torch.add, terms)


def tangents_of_wgrad_with_bias(applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    return push_forward("wgrad_with_bias", applies, ctx, tangents), tangents[1].sum((0, 2, 3))


class Leaf:
    """The settings as one input of a Function, which takes time for each of its inputs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def applied(name: str, function: type[Function]) -> Apply:
    """How to apply a Function of the tensors of the operator `name` and a `Leaf` to the operator's arguments."""

    def apply(*arguments: Any) -> Any:
        tensors, settings = split_arguments(name, arguments)
        return function.apply(*tensors, Leaf(settings))

    return apply


def autograd_kernel(name: str) -> Apply:
    """The operator's own autograd kernel: compute below autograd, differentiate by calling the operators."""

    class Differentiable(Function):
        # Without setup_context, for whose sake `apply` would look up forward's signature on every call.
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            *tensors, leaf = inputs
            remember(ctx, tensors, leaf.settings)
            with torch._C._AutoDispatchBelowAutograd():
                return OVERLOADS[name](*tensors, *leaf.settings)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(name, DIRECT, ctx, *gradients), None

    return applied(name, Differentiable)


def for_transforms(name: str) -> Apply:
    """The same for `torch.func` and forward mode, in which the operators' own autograd kernels cannot be entered."""

    class Transformable(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            *tensors, leaf = inputs
            return OVERLOADS[name](*tensors, *leaf.settings)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, leaf = inputs
            remember(ctx, tensors, leaf.settings)
            first, second, *_ = tensors
            ctx.save_for_forward(first, second)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(name, TRANSFORMABLE, ctx, *gradients), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if name == "wgrad_with_bias":
                return tangents_of_wgrad_with_bias(TRANSFORMABLE, ctx, tangents)
            return push_forward(name, TRANSFORMABLE, ctx, tangents)

    return applied(name, Transformable)


def transforms_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def without_autograd_kernel(name: str) -> Apply:
    """The operator, but not by way of its autograd kernel where no gradient is asked for, as in most of backward."""
    operator = OVERLOADS[name]

    def apply(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or transforms_active():
            return operator(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return apply


OVERLOADS: dict[str, Apply] = {name: getattr(torch_operators, name).default for name in OPERATOR_NAMES}
DIRECT: dict[str, Apply] = {name: without_autograd_kernel(name) for name in OPERATOR_NAMES}
TRANSFORMABLE: dict[str, Apply] = {name: for_transforms(name) for name in OPERATOR_NAMES}
for _name in OPERATOR_NAMES:
    library.impl(_name, autograd_kernel(_name), "Autograd")


def apply_operator(operator: Operator, *arguments: Any) -> Tensor:
    """Call an operator so that every way of differentiating it works. Compiled code sees the operator itself.

    As `below`, which this does not call because it would ask the same again.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and transforms_active():
        result: Tensor = TRANSFORMABLE[operator](*arguments)
    elif compiling or torch.is_grad_enabled():
        result = OVERLOADS[operator](*arguments)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            result = OVERLOADS[operator](*arguments)
    return result
