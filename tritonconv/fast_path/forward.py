"""Repeat the forward pass of a call that was made before, without checking its arguments again."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.dispatch import requested
from tritonconv.fast_path.function import Convolution, Forward, start
from tritonconv.fast_path.guards import is_plain
from tritonconv.geometry import Operator
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.bounded_cache import BoundedCache, uses
from tritonconv.operators import compute
from tritonconv.operators.autograd import Remembered
from tritonconv.reference.torch_rules.arguments import Checked
from tritonconv.reference.torch_rules.formats import autocast

# The long way of a call: returns its arguments after all checks, and its result.
LongWay = Callable[..., tuple[Checked, Tensor]]

forwards: BoundedCache[Forward] = BoundedCache()

# Bound once, because looking them up takes longer than calling them.
_in_any_autocast = torch._C._is_any_autocast_enabled
_is_grad_enabled = torch.is_grad_enabled
_is_compiling = torch.compiler.is_dynamo_compiling
_float32 = torch.float32
# `Function.apply` looks for transforms of functorch, which `is_plain` has ruled out, and then calls this.
_apply = super(Function, Convolution).apply


def convolution(
    long_way: LongWay,
    operator: Operator,
    varies: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: tuple[Any, ...],
    implementation: str | None,
) -> Tensor:
    """Return the result of a call, by what an equal call has kept if that may be, else by `long_way`.

    `operator` computes the call, with a weight that varies over the letters in `varies`. The other arguments are those
    that the user passed, not checked. `numbers` are stride, padding and so on. `long_way` takes all that follows it.
    """
    implementation = requested(implementation)
    if _is_compiling():
        return long_way(operator, varies, input, weight, bias, numbers, implementation)[1]
    plain = is_plain(input, weight, bias) and not compute.observers
    if plain and forwards.entries:
        x, w, b = autocast(input, weight, bias) if _in_any_autocast() else (input, weight, bias)
        kept = forwards.entries.get(key(operator, varies, x, w, b, numbers, implementation))
        if kept is not None:
            kept.used = next(uses)
            if _is_grad_enabled() and (x.requires_grad or w.requires_grad or (b is not None and b.requires_grad)):
                found: Tensor = _apply(x, w, b, kept)
                return found
            return start(kept, x, w, b)
    checked, result = long_way(operator, varies, input, weight, bias, numbers, implementation)
    if plain:
        keep(operator, varies, input, numbers, implementation, checked)
    return result


def key(
    operator: Operator,
    varies: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: tuple[Any, ...],
    implementation: str,
) -> Hashable:
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
    dtype = input.dtype
    return (  # flat, because each tuple inside takes time
        operator,
        varies,
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


def keep(
    operator: Operator, varies: str, input: Tensor, numbers: tuple[Any, ...], implementation: str, checked: Checked
) -> None:
    """Keep a call that was computed just now, if Triton has run it and its checks changed no shape.

    `checked` are its arguments after all checks. They change the shape of an input without a batch, and of a weight
    without channels.
    """
    x, weight, bias, *settings = checked
    if not plan_cache.plans.entries or input.ndim != 4 or weight.shape[-3] == 0:
        return
    under, generation = key(operator, varies, x, weight, bias, numbers, implementation), bounded_cache.generation()
    call = Call(operator, (x, weight, bias, *settings, implementation))
    plan = plan_cache.kept(call)
    if under is not None and plan is not None:
        forwards.add(under, Forward(plan, Remembered.of(operator, call.settings, bias)), generation)
