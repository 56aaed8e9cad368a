"""Compile what a training step needs before the first one, in parallel processes."""

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.launch.plan import Launch
from tritonconv.operators.decision import decide
from tritonconv.tools.explain import Listener
from tritonconv.tools.parallel_compile import compile_all, cpus


def warmup(model: nn.Module, *inputs: Any, processes: int | None = None, **kwargs: Any) -> None:
    """Compile every kernel that one training step of `model(*inputs, **kwargs)` launches, and print what was done.

    Inputs of another shape, dtype, memory format or alignment may need other kernels. Call it within the
    `torch.autocast` and `using` of the step. Forward and backward run on a copy of the model whose tensors have no
    data: nothing is computed, and the model stays as it is, though its hooks are called. At most `processes` (by
    default, one for each CPU) compile at a time, and leave what they compile in Triton's cache on disk, where the next
    start of the program finds it. What can not be compiled is warned about, and left to the step. Raises RuntimeError
    if the model can not run without data, as one that decides by the values it computes.

    >>> import torch, tritonconv
    >>> model = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> tritonconv.warmup(model, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    tritonconv.warmup: nothing to compile, because none of the 2 operators of a step runs in Triton
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"tritonconv.warmup(): argument 'model' must be Module, not {type(model).__name__}")
    start = time.perf_counter()
    calls = step_calls(model, inputs, kwargs)
    jobs = list({each.variant: each for call in calls for each in launches_of(call)}.values())
    step = f"the {len(calls)} operators of a step"
    if not calls:
        print("tritonconv.warmup: nothing to compile, because the model calls no tritonconv operator")
    elif not jobs:
        print(f"tritonconv.warmup: nothing to compile, because none of {step} runs in Triton")
    elif runtime.interpreted():
        print(f"tritonconv.warmup: nothing to compile, because Triton's interpreter runs {step}")
    else:
        with torch.cuda.device_of(calls[0].factors[0]):
            elsewhere, used, here, failed = compile_all(jobs, processes or cpus())
        print(
            f"tritonconv.warmup: {len(jobs)} kernels for {step}: {elsewhere} compiled in {used} processes, "
            f"{f'{here} in this one, ' * (here > 0)}{len(jobs) - elsewhere - here - failed} found in Triton's cache; "
            f"{time.perf_counter() - start:.1f} s"
        )


def step_calls(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> list[Call]:
    """Every call of an operator in a step, forward and backward, on tensors without data."""
    model = getattr(model, "_orig_mod", model)  # not what torch.compile made of it
    calls: list[Call] = []
    listener = Listener(calls.append)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        copied = copy_without_data(model, fake)
        # On one thread, because the listener hears only its own.
        with torch.autograd.set_multithreading_enabled(False), fake, listener:
            args, kwargs = tree_map_only(Tensor, fake.from_tensor, (inputs, kwargs or {}))
            roots = [t for t in tensors_in(copied(*args, **kwargs)) if t.requires_grad]
            leaves = [t for t in (*copied.parameters(), *tensors_in((args, kwargs))) if t.requires_grad]
            if roots and leaves:
                # Gradients that lie in memory as the outputs do: those of a sum would have no strides.
                torch.autograd.grad(roots, leaves, [torch.empty_like(root) for root in roots], allow_unused=True)
    except Exception as error:
        raise RuntimeError(f"tritonconv.warmup: the model can not run without data: {error}") from error
    finally:
        torch.clear_autocast_cache()  # of the copy's weights
    return calls


def copy_without_data(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy of the model, Python state and all, with a tensor that has no data in the place of each of its tensors."""
    held = (value for module in model.modules() for value in tree_leaves(vars(module)))
    tensors = (value for value in held if isinstance(value, Tensor))
    memo = {id(t): fake.from_tensor(t if t.is_leaf else t.detach()) for t in tensors}
    return copy.deepcopy(model, memo)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of an argument or output: of tuples, lists, dicts, and of objects' attributes."""
    if isinstance(value, Tensor):
        return [value]
    leaves = tree_leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return [t for held in getattr(value, "__dict__", {}).values() for t in tensors_in(held)]
    return [t for leaf in leaves for t in tensors_in(leaf)]


def launches_of(call: Call) -> list[Launch]:
    """What the call would launch, if Triton would run it."""
    plan = decide(call.without_data()).plan
    return [] if plan is None else plan.launches
