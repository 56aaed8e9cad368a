"""Repeat the forward pass of a call that was made before, without checking its arguments again."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.dispatch import requested
from tritonconv.fast_path import guards
from tritonconv.fast_path.function import Convolution, Forward, repeat
from tritonconv.fast_path.guards import is_plain
from tritonconv.geometry import Operator
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.bounded_cache import BoundedCache, uses
from tritonconv.operators import compute
from tritonconv.operators.autograd import Remembered
from tritonconv.reference.torch_rules.arguments import Checked
from tritonconv.reference.torch_rules.formats import autocast
from tritonconv.settings import Settings

# Input, weight and bias.
Tensors = tuple[Tensor, Tensor, Tensor | None]
# Stride, padding and so on, as the user passed them.
Numbers = tuple[Any, ...]


class Form(NamedTuple):
    """A function of `tritonconv.functional`: the operator that computes it, and the letters its weight varies over."""

    operator: Operator
    varies: str


# Checks the arguments of a call and computes it by its operator. It returns the checked arguments and the result.
LongWay = Callable[[Form, Tensors, Numbers, str], tuple[Checked, Tensor]]

forwards: BoundedCache[Forward] = BoundedCache()

# Bound once, because looking them up takes longer than calling them.
_is_compiling, _is_grad_enabled = torch.compiler.is_dynamo_compiling, torch.is_grad_enabled
_float32 = torch.float32
# `Function.apply` looks for transforms of functorch, which `is_plain` has ruled out, and then calls this.
_apply = super(Function, Convolution).apply


def convolution(
    long_way: LongWay, form: Form, tensors: Tensors, numbers: Numbers, implementation: str | None
) -> Tensor:
    """Return the result of a call: by what an equal call has kept, if there is that and the call is plain.

    Otherwise return that of `long_way`, and keep what is found out. The arguments are the user's, and not checked.
    """
    implementation = requested(implementation)
    if _is_compiling():
        return long_way(form, tensors, numbers, implementation)[1]
    plain = is_plain(*tensors) and not compute.observers
    if plain and forwards.entries:
        input, weight, bias = operands = autocast(*tensors) if guards.in_any_autocast() else tensors
        kept = forwards.entries.get(key(form, operands, numbers, implementation))
        if kept is not None:
            kept.used = next(uses)
            if _is_grad_enabled() and (
                input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
            ):
                found: Tensor = _apply(input, weight, bias, kept)
                return found
            return repeat(kept, input, weight, bias)
    checked, result = long_way(form, tensors, numbers, implementation)
    if plain:
        keep(form, tensors, numbers, implementation, checked)
    return result


def key(form: Form, operands: Tensors, numbers: Numbers, implementation: str) -> Hashable:
    """Return all that the checks of a call and its plan depend on.

    Return None if a number is something else than an int, a tuple of ints or a string. It could equal one of those, as
    True equals 1, and still be refused.
    """
    for number in numbers:
        kind = type(number)
        if kind is tuple:
            for each in number:
                if type(each) is not int:
                    return None
        elif kind is not int and kind is not str:
            return None
    input, weight, bias = operands
    dtype = input.dtype
    return (  # flat, because each tuple inside takes time
        form,
        numbers,
        implementation,
        dtype is _float32 and runtime.tf32_allowed(),
        input.device,
        dtype,
        input.shape,
        input.stride(),
        input.data_ptr() % 16,
        weight.device,
        weight.dtype,
        weight.shape,
        weight.stride(),
        weight.data_ptr() % 16,
        None if bias is None else (bias.device, bias.dtype, bias.shape, bias.stride(), bias.data_ptr() % 16),
    )


def keep(form: Form, tensors: Tensors, numbers: Numbers, implementation: str, checked: Checked) -> None:
    """Keep a call that was computed just now, if Triton has run it and its checks changed no shape.

    `checked` are its arguments after all checks. They change the shape of an input without a batch, and of a weight
    without channels.
    """
    input, weight, bias = checked[:3]
    if not plan_cache.plans.entries or tensors[0].ndim != 4 or weight.shape != tensors[1].shape:
        return
    generation, under = bounded_cache.generation(), key(form, (input, weight, bias), numbers, implementation)
    call = Call(form.operator, (input, weight, bias, *Settings(*checked[3:], implementation).packed))
    plan = plan_cache.kept(call)
    if under is not None and plan is not None:
        forwards.add(under, Forward(plan, Remembered.of(form.operator, call.settings, bias)), generation)
