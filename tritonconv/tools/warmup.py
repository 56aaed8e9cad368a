"""`tritonconv.warmup`: compile the kernels of a training step in parallel processes, and load them, before the step."""

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
    """Compile every kernel that one training step launches, forward and backward, and print how many there were.

    Without `warmup`, the first step compiles its kernels one after another. The compiled kernels stay in Triton's cache
    on disk, where the next start of the program finds them. They are also loaded onto the GPU of the model's first
    layer, because some drivers can not load them while a CUDA graph is captured.

    Call `warmup` before the training loop, with a batch as the loop has them, and within the `torch.autocast` and
    `tritonconv.using` of the loop. A batch of another shape, dtype, memory format or alignment may need other kernels.

    Forward and backward run on a copy of the model, on fake tensors, which have no data. So nothing is computed and the
    model does not change, but its hooks are called. A kernel that can not be compiled causes a UserWarning. The
    training step then tries to compile it again.

    The processes may take two minutes, and ten seconds more for each kernel of the step. What is still running then is
    killed. If processes fail or are killed, one UserWarning gives the number and the first reason, and this process
    compiles what is missing, without a time limit.

    Args:
        model: the model to train.
        inputs, kwargs: the arguments with which the step calls the model.
        processes: how many processes may compile at the same time. The default is the number of CPUs that this process
            may use.

    Raises:
        TypeError: if `model` is not a torch.nn.Module.
        ValueError: if `processes` is negative.
        RuntimeError: if the model can not run on fake tensors, for example because it branches on computed values, or
            has lazy layers that had no input yet.

    >>> import torch, tritonconv
    >>> model = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = torch.randn(5, 2, 3, 8, 8, dtype=torch.float64)
    >>> tritonconv.warmup(model, batches[0])
    tritonconv.warmup: nothing to compile, because nothing runs in Triton (tritonconv.explain says why)
    >>> for images in batches:
    ...     optimizer.zero_grad()
    ...     model(images).square().mean().backward()
    ...     optimizer.step()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"tritonconv.warmup(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}; "
            "to warm up a function, call it in the forward of a Module"
        )
    if processes is not None and processes < 0:
        raise ValueError(f"tritonconv.warmup(): argument 'processes' must not be negative, but got {processes}")
    start = time.perf_counter()
    calls = step_calls(model, inputs, kwargs)
    jobs = list({each.variant: each for call in calls for each in launches_of(call)}.values())
    step = f"the {len(calls)} operator calls of a training step"
    if not calls:
        print("tritonconv.warmup: nothing to compile, because the model uses no layer or function of tritonconv")
    elif not jobs:
        print("tritonconv.warmup: nothing to compile, because nothing runs in Triton (tritonconv.explain says why)")
    elif runtime.interpreted():
        print(f"tritonconv.warmup: nothing to compile, because Triton's interpreter runs {step}")
    else:
        with torch.cuda.device_of(calls[0].factors[0]):
            elsewhere, used, here, failed = compile_all(jobs, processes or cpus())
        print(
            f"tritonconv.warmup: {step} need {len(jobs)} kernels: {elsewhere} compiled in {used} processes, "
            f"{f'{here} compiled in this process, ' * (here > 0)}{f'{failed} failed to compile, ' * (failed > 0)}"
            f"{len(jobs) - elsewhere - here - failed} found in Triton's cache; {time.perf_counter() - start:.1f} s"
        )


def step_calls(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> list[Call]:
    """Return every operator call of a training step, forward and backward. The calls hold fake tensors.

    Backward is left out if no output or no parameter or input requires a gradient. Raise RuntimeError if the model can
    not run on fake tensors.
    """
    model = getattr(model, "_orig_mod", model)  # the model inside the wrapper of torch.compile
    calls: list[Call] = []
    listener = Listener(calls.append)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        copied = copy_without_data(model, fake)
        # Backward must run in this thread, because the listener hears no other.
        with torch.autograd.set_multithreading_enabled(False), fake, listener:
            args, kwargs = tree_map_only(Tensor, fake.from_tensor, (inputs, kwargs or {}))
            roots = [t for t in tensors_in(copied(*args, **kwargs)) if t.requires_grad]
            leaves = [t for t in (*copied.parameters(), *tensors_in((args, kwargs))) if t.requires_grad]
            if roots and leaves:
                # These gradients have the strides of the outputs. The gradient of a sum would be expanded, with
                # strides of zero, and would need other kernels.
                torch.autograd.grad(roots, leaves, [torch.empty_like(root) for root in roots], allow_unused=True)
    except Exception as error:
        raise RuntimeError(
            f"tritonconv.warmup: the model can not run on fake tensors, which have no data: {error}. If it has lazy "
            "layers, call it once before warmup. If it branches on computed values, leave out warmup: the first step "
            "then compiles the kernels"
        ) from error
    finally:
        torch.clear_autocast_cache()  # which holds casts of the copy's weights
    return calls


def copy_without_data(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Return a deep copy of the model, including its Python state, in which a fake tensor replaces each tensor."""
    held = (value for module in model.modules() for value in tree_leaves(vars(module)))
    tensors = (value for value in held if isinstance(value, Tensor))
    memo = {id(t): fake.from_tensor(t if t.is_leaf else t.detach()) for t in tensors}
    return copy.deepcopy(model, memo)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in an argument or output: in tuples, lists and dicts, and in the attributes of objects."""
    if isinstance(value, Tensor):
        return [value]
    leaves = tree_leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return [t for held in getattr(value, "__dict__", {}).values() for t in tensors_in(held)]
    return [t for leaf in leaves for t in tensors_in(leaf)]


def launches_of(call: Call) -> list[Launch]:
    """Return the kernel launches of the call's plan, or an empty list if Triton does not run the call."""
    plan = decide(call.without_data()).plan
    return [] if plan is None else plan.launches
