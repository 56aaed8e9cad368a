"""Repeat the forward pass of a call that was made before, without checking its arguments again."""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.dispatch import requested
from tritonconv.fast_path import guards
from tritonconv.fast_path.function import Convolution, KeptForward, repeat
from tritonconv.fast_path.guards import is_plain
from tritonconv.fast_path.long_way import ConvFunction, Options, Tensors, checked_and_computed
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.bounded_cache import BoundedCache, uses
from tritonconv.operators.autograd import SavedCall
from tritonconv.reference.torch_rules.formats import autocast

kept_forwards: BoundedCache[KeptForward] = BoundedCache()

# Bound once, because looking them up takes longer than calling them.
_is_grad_enabled = torch.is_grad_enabled
_float32 = torch.float32
# `Function.apply` looks for transforms of functorch, which `is_plain` has ruled out, and then calls this.
_apply = super(Function, Convolution).apply


def convolution(function: ConvFunction, tensors: Tensors, options: Options, implementation: str | None) -> Tensor:
    """Return the result of a call: by what an equal call has kept, if there is that and the call is plain.

    Otherwise the call goes the long way, and what that finds out is kept. The arguments are the user's, not checked.
    """
    implementation = requested(implementation)
    plain = is_plain(*tensors)
    if plain and kept_forwards.entries and tensors[0].ndim == 4:
        input, weight, bias = operands = autocast(*tensors) if guards.in_any_autocast() else tensors
        # `BoundedCache.get`, written out, because a call of it takes longer. Nothing is kept under the key None.
        kept = kept_forwards.entries.get(key(function, operands, options, implementation))
        if kept is not None:
            kept.used = next(uses)
            if _is_grad_enabled() and (
                input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
            ):
                found: Tensor = _apply(input, weight, bias, kept)
                return found
            return repeat(kept, input, weight, bias)
        del input, weight, bias, operands  # which autocast may have copied, as it will again
    for_operator, result = checked_and_computed(function, tensors, options, implementation)
    if plain:
        keep(function, tensors, options, implementation, for_operator)
    return result


# Where a key has torch's switch for TF32, which counts in float32 only.
TF32 = 3


def key(
    function: ConvFunction, operands: Tensors, options: Options, implementation: str
) -> tuple[Hashable, ...] | None:
    """Return all that the checks of a call and its plan depend on.

    Return None if an option is something else than an int, a tuple of ints or a string. It could equal one of those, as
    True equals 1, and still be refused.
    """
    for option in options:
        kind = type(option)
        if kind is tuple:
            for each in option:
                if type(each) is not int:
                    return None
        elif kind is not int and kind is not str:
            return None
    input, weight, bias = operands
    dtype = input.dtype
    return (  # flat, because each tuple inside takes time
        function,
        options,
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
    function: ConvFunction, tensors: Tensors, options: Options, implementation: str, for_operator: tuple[Any, ...]
) -> None:
    """Keep a call that was computed just now, if Triton has run it and its checks changed no shape.

    `for_operator` are the arguments of its operator. The checks change the shape of an input without a batch, and of a
    weight without channels.
    """
    input, weight, bias = for_operator[:3]
    if not plan_cache.plans.entries or tensors[0].ndim != 4 or weight.shape != tensors[1].shape:
        return
    generation = bounded_cache.generation()
    under = key(function, (input, weight, bias), options, implementation)
    call = Call(function.operator, for_operator)
    plan = plan_cache.find(call)
    if under is not None and plan is not None and plan.follows_switch(tf32=under[TF32]):
        kept = KeptForward(plan, SavedCall.of(function.operator, call.settings, bias))
        kept_forwards.add(under, kept, generation)
