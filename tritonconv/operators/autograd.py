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

from tritonconv.geometry import Operator
from tritonconv.launch.layout import summand
from tritonconv.operators.library import Sampling, library, operators

# The factors that each operator takes, in the order of its arguments, and the one that it leaves out.
FACTORS = {"fprop": ("x", "weight"), "dgrad": ("y", "weight"), "wgrad": ("x", "y"), "wgrad_with_bias": ("x", "y")}
LEAVES_OUT = {"fprop": "y", "dgrad": "x", "wgrad": "weight", "wgrad_with_bias": "weight"}
OPERATOR: dict[str, Operator] = {"y": "fprop", "x": "dgrad", "weight": "wgrad"}

# The dimensions of a result over which a bias of so many is the same.
SHARED_BY_BIAS = {1: (0, 2, 3), 2: (2, 3), 3: (0,), 4: ()}

Apply = Callable[..., Any]


def contract(
    applies: dict[str, Apply],
    without: str,
    factors: dict[str, Tensor],
    sampling: Sampling,
    size: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    """Sum the form over all but the factor `without`, whose extent is `size`, and add `bias`, unless to a weight."""
    operator = OPERATOR[without]
    first, second = (factors[name] for name in FACTORS[operator])
    extra = () if operator == "wgrad" else (bias,)
    result: Tensor = applies[operator](first, second, *extra, *sampling._replace(size=size))
    return result


def remember(ctx: Any, tensors: Sequence[Any], sampling: Sampling) -> None:
    """Keep the two factors, as the user's tensors, and the sampling."""
    ctx.sampling, ctx.has_bias_argument = sampling, len(tensors) > 2
    ctx.bias_dims = tensors[2].ndim if len(tensors) > 2 and tensors[2] is not None else 0
    ctx.save_for_backward(*tensors[:2])


def pull_back(
    name: str, applies: dict[str, Apply], ctx: Any, gradient: Tensor, bias_gradient: Tensor | None = None
) -> list[Tensor | None]:
    """The gradients of the tensors that require one, from those of the results. That of the weight comes first: its
    partial sums are gone before the other, which usually is larger, is there.
    """
    held = dict(zip(FACTORS[name], ctx.saved_tensors, strict=True))
    factors = {LEAVES_OUT[name]: gradient} | {factor: tensor.conj() for factor, tensor in held.items()}
    needed = dict(zip((*held, "bias"), ctx.needs_input_grad, strict=False))
    found: dict[str, Tensor] = {}
    if name == "fprop" and needed["weight"] and needed["bias"] and not ctx.sampling.varies:
        sampling = ctx.sampling._replace(size=held["weight"].shape[2:])
        found["weight"], found["bias"] = applies["wgrad_with_bias"](factors["x"], factors["y"], *sampling)
    elif ctx.has_bias_argument and needed["bias"]:
        shared = SHARED_BY_BIAS[ctx.bias_dims]
        found["bias"] = gradient.sum(shared) if shared else gradient
    for factor in sorted(held, key=lambda factor: OPERATOR[factor] != "wgrad"):
        if needed[factor] and factor not in found:
            tensor = held[factor]
            extra = bias_gradient if factor == "y" else None
            found[factor] = contract(applies, factor, factors, ctx.sampling, tensor.shape[-2:], extra)
    return [found.get(factor) for factor in (*held, *["bias"] * ctx.has_bias_argument)]


def push_forward(name: str, applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> Tensor:
    """The tangent of the result, from those of the inputs: the product rule.

    Where an input has none torch hands over zeros; only a bias that is not there has None.
    """
    held = dict(zip(FACTORS[name], ctx.saved_tensors, strict=True))
    terms = [
        contract(applies, LEAVES_OUT[name], held | {factor: tangent}, ctx.sampling, ctx.sampling.size)
        for factor, tangent in zip(held, tangents, strict=False)
    ]
    if ctx.has_bias_argument and tangents[2] is not None:
        first = ctx.saved_tensors[0]
        terms.append(summand(tangents[2]).expand(first.shape[0], -1, *ctx.sampling.size).clone())
    return reduce(torch.add, terms)


def tangents_of_wgrad_with_bias(applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    return push_forward("wgrad_with_bias", applies, ctx, tangents), tangents[1].sum((0, 2, 3))


class Leaf:
    """The sampling as one input: its numbers would be so many more, and take a Function as many times as long."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling


def applied(function: type[Function]) -> Apply:
    """How to apply a Function of an operator's tensors and a `Leaf` to the operator's arguments."""

    def apply(*inputs: Any) -> Any:
        sampling = Sampling.of(inputs)
        return function.apply(*inputs[: -len(sampling)], Leaf(sampling))

    return apply


def below_autograd(name: str) -> Apply:
    """The operator's own autograd kernel: compute below autograd, differentiate by calling the operators."""

    class Differentiable(Function):
        # Without setup_context, for whose sake `apply` would look up forward's signature on every call.
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            *tensors, leaf = inputs
            remember(ctx, tensors, leaf.sampling)
            with torch._C._AutoDispatchBelowAutograd():
                return CALLS[name](*tensors, *leaf.sampling)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(name, DIRECT, ctx, *gradients), None

    return applied(Differentiable)


def for_transforms(name: str) -> Apply:
    """The same for `torch.func` and forward mode, in which the operators' own autograd kernels cannot be entered."""

    class Transformable(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            *tensors, leaf = inputs
            return CALLS[name](*tensors, *leaf.sampling)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, leaf = inputs
            remember(ctx, tensors, leaf.sampling)
            ctx.save_for_forward(*tensors[:2])

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(name, TRANSFORMABLE, ctx, *gradients), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if name == "wgrad_with_bias":
                return tangents_of_wgrad_with_bias(TRANSFORMABLE, ctx, tangents)
            return push_forward(name, TRANSFORMABLE, ctx, tangents)

    return applied(Transformable)


def transforms_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def below(name: str) -> Apply:
    """The operator, but not by way of its autograd kernel where no gradient is asked for, as in most of backward."""
    operator = CALLS[name]

    def apply(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or transforms_active():
            return operator(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return apply


CALLS: dict[str, Apply] = {name: getattr(operators, name).default for name in FACTORS}
DIRECT: dict[str, Apply] = {name: below(name) for name in FACTORS}
TRANSFORMABLE: dict[str, Apply] = {name: for_transforms(name) for name in FACTORS}
for _name in FACTORS:
    library.impl(_name, below_autograd(_name), "Autograd")


def call(operator: Operator, *arguments: Any) -> Tensor:
    """Call an operator so that every way of differentiating it works. Compiled code sees the operator itself."""
    applies = TRANSFORMABLE if not torch.compiler.is_compiling() and transforms_active() else DIRECT
    result: Tensor = applies[operator](*arguments)
    return result
