"""Compute a call of an operator, in Triton if it can run the call, else by the reference.

`operators.library` declares the operators, and this module registers their implementation with torch's dispatcher.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tritonconv.bias import sum_for
from tritonconv.call import OPERATOR_NAMES, Call
from tritonconv.launch import bounded_cache, plan_cache, start
from tritonconv.launch.layout import allocate
from tritonconv.launch.recovery import Recovery
from tritonconv.operators.composite import composed
from tritonconv.operators.decision import decide
from tritonconv.operators.library import library

# The last function in this list is called with each call that ran in Triton, and with its results. `tritonconv.verify`
# adds itself here. The list is shared by all threads, because on CUDA autograd runs backward in a thread of its own.
observers: list[Callable[[Call, tuple[Tensor, ...]], None]] = []


def compute(call: Call) -> tuple[Tensor, ...]:
    """Return the result of a call and, if the call `finds_bias`, the gradient of the bias as a second tensor."""
    plan = plan_cache.find(call)
    if plan is not None:
        tensors = start.run_again(plan, *call.factors, call.bias)
        if tensors is not None:
            results = plan.results_in(tensors)
            del tensors  # frees copies and workspaces, because an observer may need the memory
            return observed(call, results) if observers else results
    return compute_anew(call)


def compute_anew(call: Call) -> tuple[Tensor, ...]:
    """Return what `compute` returns, without a kept plan: none is kept, or it can not be filled."""
    results = compute_in_triton(call)
    return compute_by_reference(call) if results is None else observed(call, results)


def compute_in_triton(call: Call) -> tuple[Tensor, ...] | None:
    """Return the results of a call that Triton runs, and keep its plan in the plan cache.

    Return None if the call is decided for the reference. If a kernel can not be compiled or loaded, `Recovery` changes
    the state on which the decision depends, and the call is decided again. Other errors are raised.
    """
    with Recovery(call) as recovery:
        while True:
            generation = bounded_cache.generation()
            decision = decide(call)
            plan = decision.plan
            if plan is None:
                decision.warn_of_fallback()
                return None
            try:
                compiled = start.start_kernels(plan)
            except Exception as error:
                if not recovery.handle(error, plan):
                    raise
                if recovery.gave_up:
                    # This decides the call once more, inside the except block. So the kernel's error becomes the cause
                    # or the context of what is raised.
                    warn_or_refuse(call, error)
            else:
                recovery.succeed()
                plan_cache.keep(call, plan, compiled, generation)
                return plan.results
            del plan, decision  # frees the results, which are too large to keep while the call is planned again


def warn_or_refuse(call: Call, error: Exception) -> None:
    """Warn that the reference computes a call, after `error` has led to that decision.

    Raise NotImplementedError instead, with `error` as its cause, if the call insists on Triton.
    """
    try:
        decide(call).warn_of_fallback()
    except NotImplementedError as refusal:
        raise refusal from error


def observed(call: Call, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pass the call and its results to the last observer, if there is one, and return the results."""
    for observe in observers[-1:]:  # one atomic step, because other threads add and remove observers
        observe(call, results)
    return results


def compute_by_reference(call: Call) -> tuple[Tensor, ...]:
    """Return what `compute` returns, computed by the reference, in memory that no other tensor shares."""
    # The result is copied. Autograd must not see a view, and the user's result must not keep a larger tensor alive.
    # The copy also rounds 16 bits, which are computed in 32, once.
    copied = allocate(call.result_shape, call.factors[0], call.result_is_channels_last).copy_(composed(call))
    return (copied, sum_for("", call.factors[1])) if call.finds_bias else (copied,)


def torch_implementation(name: str) -> Callable[..., Any]:
    """Return the function with which torch's dispatcher computes tritonconv's operator `name`.

    The function passes its arguments to `compute`. It returns all results if the call also finds the gradient of the
    bias, else only the first.
    """

    def computed(*arguments: Any) -> Any:
        call = Call(name, arguments)
        results = compute(call)
        return results if call.finds_bias else results[0]

    return computed


for _name in OPERATOR_NAMES:
    library.impl(_name, torch_implementation(_name), "CompositeExplicitAutograd")
