"""The derivatives of the three operators: each one's are the other two.

The form is linear in each of its factors x, weight and y. An operator leaves one out; its derivative by another puts
the incoming gradient in the place of the one and leaves out the other. That sentence is `contract` below, and all the
calculus there is. It is stated once and wrapped twice: as the operators' own autograd kernels, which `torch.compile`
and `torch.export` can trace, and as Functions that also know forward mode, for the transforms of `torch.func`.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from tritonconv.geometry import Operator
from tritonconv.ops import Sampling, library, operators

# The factors that each operator takes, in the order of its arguments.
FACTORS: dict[Operator, tuple[str, str]] = {"fprop": ("x", "weight"), "dgrad": ("y", "weight"), "wgrad": ("x", "y")}
LEAVES_OUT: dict[Operator, str] = {"fprop": "y", "dgrad": "x", "wgrad": "weight"}
OPERATOR = {factor: operator for operator, factor in LEAVES_OUT.items()}

Apply = Callable[..., Tensor]


def contract(
    applies: dict[Operator, Apply], without: str, factors: dict[str, Tensor], sampling: Sampling, size: Sequence[int]
) -> Tensor:
    """Sum the form over everything but the factor `without`, whose extent is `size`."""
    operator = OPERATOR[without]
    first, second = (factors[name] for name in FACTORS[operator])
    bias = () if operator == "wgrad" else (None,)
    return applies[operator](first, second, *bias, *sampling._replace(size=size))


def remember(ctx: Any, tensors: Sequence[Any], sampling: Sampling) -> None:
    """Keep the two factors, as the user's tensors, and the sampling."""
    ctx.sampling, ctx.has_bias_argument = sampling, len(tensors) > 2
    ctx.save_for_backward(*tensors[:2])


def pull_back(operator: Operator, applies: dict[Operator, Apply], ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """The gradients of the tensors, from that of the result. What is not asked for is not computed."""
    held = dict(zip(FACTORS[operator], ctx.saved_tensors, strict=True))
    factors = {LEAVES_OUT[operator]: gradient} | {name: factor.conj() for name, factor in held.items()}
    gradients = [
        contract(applies, name, factors, ctx.sampling, factor.shape[2:]) if needed else None
        for (name, factor), needed in zip(held.items(), ctx.needs_input_grad, strict=False)
    ]
    if ctx.has_bias_argument:
        gradients.append(gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None)
    return gradients


def push_forward(operator: Operator, applies: dict[Operator, Apply], ctx: Any, tangents: Sequence[Any]) -> Tensor:
    """The tangent of the result, from those of the inputs: the product rule."""
    held = dict(zip(FACTORS[operator], ctx.saved_tensors, strict=True))
    terms = [
        contract(applies, LEAVES_OUT[operator], held | {name: tangent}, ctx.sampling, ctx.sampling.size)
        for name, tangent in zip(held, tangents, strict=False)
        if tangent is not None
    ]
    if ctx.has_bias_argument and tangents[2] is not None:
        first = ctx.saved_tensors[0]
        channels = tangents[2][:, None, None]
        terms.append(channels.expand(first.shape[0], -1, *ctx.sampling.size).clone())
    return reduce(torch.add, terms)


def below_autograd(operator: Operator) -> type[Function]:
    """The operator's own autograd kernel: compute below autograd, differentiate by calling the operators."""

    class Differentiable(Function):
        @staticmethod
        def forward(*inputs: Any) -> Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                return CALLS[operator](*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            sampling = Sampling.of(inputs)
            remember(ctx, inputs[: -len(sampling)], sampling)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(operator, CALLS, ctx, gradient), *[None] * len(ctx.sampling)

    return Differentiable


class Leaf:
    """The sampling as one leaf: `torch.func` would take the numbers in a tuple for so many inputs."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling


def for_transforms(operator: Operator) -> Apply:
    """The same for `torch.func` and forward mode, in which the operators' own autograd kernels cannot be entered."""

    class Transformable(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Tensor:
            *tensors, leaf = inputs
            return CALLS[operator](*tensors, *leaf.sampling)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            *tensors, leaf = inputs
            remember(ctx, tensors, leaf.sampling)
            ctx.save_for_forward(*tensors[:2])

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(operator, TRANSFORMABLE, ctx, gradient), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            return push_forward(operator, TRANSFORMABLE, ctx, tangents)

    def apply(*inputs: Any) -> Tensor:
        sampling = Sampling.of(inputs)
        result: Tensor = Transformable.apply(*inputs[: -len(sampling)], Leaf(sampling))
        return result

    return apply


CALLS: dict[Operator, Apply] = {name: getattr(operators, name).default for name in FACTORS}
TRANSFORMABLE: dict[Operator, Apply] = {name: for_transforms(name) for name in FACTORS}
for _name in FACTORS:
    library.impl(_name, below_autograd(_name).apply, "Autograd")


def transforms_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def call(operator: Operator, *arguments: Any) -> Tensor:
    """Call an operator so that every way of differentiating it works. Compiled code sees the operator itself."""
    if not torch.compiler.is_compiling() and transforms_active():
        return TRANSFORMABLE[operator](*arguments)
    return CALLS[operator](*arguments)
