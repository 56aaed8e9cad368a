"""`tritonconv.explain`: which implementation runs each convolution of a call or a model, and why."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv.call import Call
from tritonconv.geometry import COMPUTED_BY, TAKES
from tritonconv.gpu import INTERPRETER
from tritonconv.launch.layout import allocate_results
from tritonconv.operators.decision import decide
from tritonconv.tiling.pick import measured_for, measured_on
from tritonconv.tools.explanation import Choice, Explanation


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Call `function(*args, **kwargs)`, and return which implementation runs each convolution, and why.

    Print the result before a training loop, to see which layers run in Triton. Call `explain` within the
    `torch.autocast` and `tritonconv.using` of the loop, because both change what runs.

    Forward runs once, without gradients. State that the model updates in forward is updated, for example the running
    averages of BatchNorm. Backward does not run. The rows of gradients say what would run for each gradient.

    Args:
        function: a model, a layer or a function of tritonconv.
        args, kwargs: its arguments.

    Returns:
        A list with a row for each operator call of forward, and after it a row for each gradient of its input and
        weight. It is empty if no layer or function of tritonconv was called. `print` shows it as a table, with notes
        and a legend below. Each row has the attributes `layer`, `computes`, `operator`, `implementation`, `reasons`,
        `geometry`, `tile`, `measured`, `measured_on` and `gpu`.

    Raises:
        NotImplementedError: if a call insists on Triton, and Triton can not run it. The message says why.

    >>> import torch, tritonconv
    >>> layer = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> explanation = tritonconv.explain(layer, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    >>> print(explanation)
    Which implementation runs each convolution.
    The rows of gradients say what backward would run, if it needed them.
    <BLANKLINE>
    layer   pass             operator  implementation  notes
    ------  ---------------  --------  --------------  -----
    Conv2d  forward          fprop     reference       [1]
    Conv2d  input gradient   dgrad     reference       [1]
    Conv2d  weight gradient  wgrad     reference       [1]
    <BLANKLINE>
    notes
      [1]  Triton does not run this, because the kernels compute in float16, bfloat16 or float32, not in float64.
    <BLANKLINE>
    operator
      fprop  image and weight -> features: Conv2d forward, and the input gradient of ConvTranspose2d
      dgrad  features and weight -> image: ConvTranspose2d forward, and the input gradient of Conv2d
      wgrad  image and features -> weight: the weight gradient of both
    <BLANKLINE>
    implementation
      reference  plain PyTorch, as in tritonconv.reference
    >>> [row.layer for row in explanation if row.implementation != "triton"]
    ['Conv2d', 'Conv2d', 'Conv2d']
    """
    notes = _Notes(getattr(function, "__name__", type(function).__name__))
    handles = []
    for name, module in function.named_modules() if isinstance(function, nn.Module) else ():
        if name:
            handles.append(module.register_forward_pre_hook(notes.enter(name)))
            handles.append(module.register_forward_hook(notes.leave, always_call=True))
    try:
        with torch.no_grad(), Listener(notes.note):
            function(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return notes.explanation


class Listener(TorchDispatchMode):
    """A dispatch mode that passes each call of an operator in this thread to `note`, and then computes it.

    `warmup` uses it, too.
    """

    def __init__(self, note: Callable[[Call], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            self.note(Call(func._opname, args))
        return func(*args, **(kwargs or {}))


class _Notes:
    """The rows of an explanation while the model runs, and the names of the modules whose forward is running."""

    def __init__(self, name: str) -> None:
        self.path = [name]
        self.explanation = Explanation()

    def enter(self, name: str) -> Callable[..., None]:
        """Return the hook that notes, before the forward of the module `name`, that it is running."""
        return lambda *_: self.path.append(name)

    def leave(self, *_: Any) -> None:
        """Forget the module whose forward has just ended. This is the hook that runs after it."""
        self.path.pop()

    def note(self, call: Call) -> None:
        """Add the row of a call, and a row for the gradient of each of its two factors. No gradient is computed."""
        call = call.without_data()
        gradient, *_ = allocate_results(call, call.factors[0])
        self.add("forward", call)
        for factor in COMPUTED_BY:
            if factor in TAKES[call.operator]:
                computes = "weight gradient" if factor == "weight" else "input gradient"
                self.add(computes, call.of_gradient(factor, gradient))

    def add(self, computes: str, call: Call) -> None:
        """Decide what runs `call`, which computes `computes`, and add its row.

        Raise NotImplementedError if the call insists on Triton, and Triton can not run it.
        """
        decision = decide(call)
        chosen: dict[str, Any] = {}
        if decision.plan is not None and decision.plan.request.gpu != INTERPRETER:
            request = decision.plan.request
            known = measured_for(*request) == decision.plan.tile
            chosen = dict(measured=known, measured_on=measured_on(*request) if known else None, gpu=request.gpu.name)
        self.explanation.append(
            Choice(
                layer=self.path[-1],
                computes=computes,
                operator=call.operator,
                implementation=decision.implementation,
                reasons=decision.reasons,
                geometry=call.geometry,
                tile=None if decision.plan is None else decision.plan.tile,
                **chosen,
            )
        )
