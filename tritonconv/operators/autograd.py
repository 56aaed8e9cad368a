"""The derivatives of the operators, which are the operators themselves.

The trilinear form is linear in each of its factors x, weight and y. Each operator takes two of the factors, and leaves
the third one out. In backward, the incoming gradient stands in place of the factor that was left out. The gradient with
respect to one of the other factors is then computed by the operator that leaves this factor out. `contract` below calls
that operator.

A bias can be seen as the filter of one more channel of the image, whose pixels are all one. So its gradient can be
summed together with the weight's. If both are wanted, `wgrad_with_bias` computes both.

`pull_back` and `push_forward` hold the formulas. They are wrapped twice:

- as the operators' autograd kernels in torch's dispatcher, which `torch.compile` and `torch.export` can trace
- as autograd Functions that also support forward mode and vmap, for the transforms of `torch.func`
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from tritonconv.bias import broadcastable, letters_of, sum_for
from tritonconv.call import ADD_BIAS, OPERATOR_NAMES, OPERATOR_OF, join_arguments, split_arguments
from tritonconv.geometry import COMPUTED_BY, LEAVES_OUT, TAKES, Factor, Operator, taken
from tritonconv.operators.composite import forward_mode_is_nested, in_nested_forward_mode
from tritonconv.operators.library import library, torch_operators
from tritonconv.settings import Settings

Apply = Callable[..., Any]


def contract(
    applies: dict[str, Apply],
    left_out: Factor,
    factors: dict[Factor, Tensor],
    settings: Settings,
    bias: Tensor | None = None,
) -> Tensor:
    """Return what the operator that leaves out `left_out` computes from the other two factors.

    fprop and dgrad add `bias`, if there is one. wgrad ignores it. `applies` maps the name of each operator to the
    function that calls it.
    """
    operator = COMPUTED_BY[left_out]
    result: Tensor = applies[operator](*join_arguments(operator, taken(operator, factors), bias, settings))
    return result


@dataclass(slots=True, eq=False)
class SavedCall:
    """What backward needs of a call beside its tensors: the operator's name, its settings, and what its bias is.

    `takes_bias` says that the operator takes a bias, which may be None. `bias_letters` are the letters that the bias
    varies over, "" also if there is none. It is a part of keys, and compared by its identity, which takes less time
    than comparing its fields.
    """

    name: str
    settings: Settings
    takes_bias: bool
    bias_letters: str

    @classmethod
    def of(cls, name: str, settings: Settings, bias: Tensor | None) -> "SavedCall":
        return cls(name, settings, name in ADD_BIAS, "" if bias is None else letters_of(bias))

    def by_name(self, tensors: Sequence[Tensor]) -> dict[Factor, Tensor]:
        """Return the two factors of the call by their names."""
        return dict(zip(TAKES[OPERATOR_OF[self.name]], tensors, strict=True))


def remember(ctx: Any, name: str, tensors: Sequence[Any], settings: Settings) -> None:
    """Keep in `ctx` what backward needs: the two factors and, as `ctx.saved_call`, everything else.

    `tensors` are the two factors and, for fprop and dgrad, the bias or None. The factors are saved as they were passed,
    never as copies in another memory order.
    """
    first, second, *bias = tensors
    ctx.saved_call = SavedCall.of(name, settings, bias[0] if bias else None)
    ctx.save_for_backward(first, second)


def pull_back(
    saved_call: SavedCall,
    applies: dict[str, Apply],
    saved: Sequence[Tensor],
    needs: Sequence[bool],
    gradient: Tensor,
    bias_gradient: Tensor | None = None,
    *,
    sum_bias: Callable[[str, Tensor], Any] = sum_for,
) -> list[Tensor | None]:
    """Return the gradient of each input tensor, in the order of the operator's arguments.

    `saved` are the two factors that `remember` saved. `needs` says for each input whether its gradient is required.
    None stands for a gradient that is not required. `gradient` is the gradient of the result. `bias_gradient` is that
    of the second result of `wgrad_with_bias`, and None for the other operators. `sum_bias` computes the gradient of a
    bias where no operator does.

    The weight's gradient is computed first. So its partial sums are freed before the other gradient, which usually is
    larger, is allocated.
    """
    name, forward = saved_call.name, saved_call.settings
    held = saved_call.by_name(saved)
    factors = {LEAVES_OUT[OPERATOR_OF[name]]: gradient} | {factor: tensor.conj() for factor, tensor in held.items()}
    needed = dict(zip((*held, "bias"), needs, strict=False))
    found: dict[str, Tensor] = {}
    if name == "fprop" and needed["weight"] and needed["bias"] and not forward.varies:
        settings = forward._replace(size=held["weight"].shape[-2:])
        found["weight"], found["bias"] = applies["wgrad_with_bias"](factors["x"], factors["y"], *settings.packed)
    elif saved_call.takes_bias and needed["bias"]:
        found["bias"] = sum_bias(saved_call.bias_letters, gradient)
    for factor in sorted(held, key=lambda factor: factor != "weight"):
        if needed[factor] and factor not in found:
            settings = forward._replace(size=held[factor].shape[-2:])
            # wgrad_with_bias also returns the sum of y, so the gradient of that sum is added at every position of y.
            added = bias_gradient if factor == "y" else None
            found[factor] = contract(applies, factor, factors, settings, added)
    return [found.get(factor) for factor in (*held, *["bias"] * saved_call.takes_bias)]


def push_forward(applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> Tensor:
    """Return the tangent of the result from the tangents of the inputs, by the product rule.

    torch passes zeros for an input without a tangent. Only the tangent of a missing bias is None.
    """
    saved_call: SavedCall = ctx.saved_call
    held, settings = saved_call.by_name(ctx.saved_tensors), saved_call.settings
    first, second, *others = tangents
    terms = [
        contract(applies, LEAVES_OUT[OPERATOR_OF[saved_call.name]], held | {factor: tangent}, settings)
        for factor, tangent in zip(held, (first, second), strict=True)
    ]
    if saved_call.takes_bias and others[0] is not None:
        batch = ctx.saved_tensors[0].shape[0]
        terms.append(broadcastable(others[0]).expand(batch, -1, *settings.size).clone())
    return reduce(torch.add, terms)


def tangents_of_wgrad_with_bias(applies: dict[str, Apply], ctx: Any, tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return the tangents of both results of `wgrad_with_bias`. The second result is a sum over y."""
    return push_forward(applies, ctx, tangents), tangents[1].sum((0, 2, 3))


class Leaf:
    """The settings as a single input of an autograd Function, because each further input costs time in every call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def applied(name: str, function: type[Function]) -> Apply:
    """Return a function that takes the arguments of the operator `name` and applies `function` to them.

    `function` takes the operator's tensors, then the settings in a `Leaf`.
    """

    def apply(*arguments: Any) -> Any:
        tensors, settings = split_arguments(name, arguments)
        return function.apply(*tensors, Leaf(settings))

    return apply


def autograd_kernel(name: str) -> Apply:
    """Return the autograd kernel of the operator `name`, which torch's dispatcher calls.

    Its forward calls the operator below autograd. Its backward calls the operators by way of `DIRECT`.
    """

    # It is called as the Function of the fast path, so that `y.grad_fn` has the same name both ways.
    class Convolution(Function):
        # There is no setup_context, because with one `apply` would look up forward's signature on every call.
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            *tensors, leaf = inputs
            remember(ctx, name, tensors, leaf.settings)
            with torch._C._AutoDispatchBelowAutograd():
                return OVERLOADS[name](*tensors, *leaf.settings.packed)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return *pull_back(ctx.saved_call, DIRECT, ctx.saved_tensors, ctx.needs_input_grad, *gradients), None

    return applied(name, Convolution)


def for_transforms(name: str) -> Apply:
    """Return a function that calls the operator `name` so that `torch.func` and forward mode can differentiate it.

    It takes the place of the operator's autograd kernel, which can not be entered in a functorch transform or in
    forward mode. Its forward and backward have the same formulas. In forward mode inside forward mode, the reference
    computes the call.
    """

    class Transformable(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            *tensors, leaf = inputs
            return OVERLOADS[name](*tensors, *leaf.settings.packed)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, leaf = inputs
            remember(ctx, name, tensors, leaf.settings)
            first, second, *_ = tensors
            ctx.save_for_forward(first, second)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            return (
                *pull_back(ctx.saved_call, TRANSFORMABLE, ctx.saved_tensors, ctx.needs_input_grad, *gradients),
                None,
            )

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if name == "wgrad_with_bias":
                return tangents_of_wgrad_with_bias(TRANSFORMABLE, ctx, tangents)
            return push_forward(TRANSFORMABLE, ctx, tangents)

    through_function = applied(name, Transformable)

    def apply(*arguments: Any) -> Any:
        return in_nested_forward_mode(name, arguments) if forward_mode_is_nested() else through_function(*arguments)

    return apply


def transforms_active() -> bool:
    """Whether this call is inside a functorch transform (`torch.func`) or forward-mode AD."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def without_autograd_kernel(name: str) -> Apply:
    """Return a function that calls the operator `name`, and skips its autograd kernel if no gradient is recorded.

    Most backward passes record no gradient, and skipping the kernel saves time on the host. `torch.compile` and the
    transforms of `torch.func` always get the whole operator.
    """
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
    """Return the result of an operator, such that autograd, forward mode and `torch.func` can differentiate it.

    `functional` calls this. `torch.compile` traces the operator itself. If no gradient is recorded, the autograd kernel
    is skipped, as in `without_autograd_kernel`, which is not called because it would test the same conditions again.
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
