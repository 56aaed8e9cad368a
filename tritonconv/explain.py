"""Which implementation runs, and why: for a call or for a whole model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv.autograd import LEAVES_OUT, OPERATOR
from tritonconv.dispatch import IMPLEMENTATIONS, Problem, choose, why_not
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.ops import Sampling, geometry_of, operator_of


@dataclass(frozen=True)
class Choice:
    """One operator of one call: what it computes, what runs it, and why nothing preferred to that does."""

    layer: str
    computes: str
    operator: Operator
    implementation: str
    reasons: dict[str, str]
    geometry: ConvGeometry


class Explanation(list[Choice]):
    """The choices of a call or a model, in the order of its calls. `str` gives a table, with each reason once below."""

    def __str__(self) -> str:
        if not self:
            return "no call of tritonconv"
        notes: dict[str, int] = {}
        width = max(len(choice.layer) for choice in self)
        lines = []
        for choice in self:
            reasons = [f"not {name}: {reason}" for name, reason in choice.reasons.items()]
            marks = " ".join(f"[{notes.setdefault(reason, len(notes) + 1)}]" for reason in reasons)
            line = (
                f"{choice.layer:{width}}  {choice.computes:15}  {choice.operator:6} {choice.implementation:9}  {marks}"
            )
            lines.append(line.rstrip())
        return "\n".join([*lines, *(f"[{number}] {reason}" for reason, number in notes.items())])

    __repr__ = __str__


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Call `function(*args, **kwargs)`, a model or a tritonconv function, and say what ran each convolution and why.

    Forward runs once, without gradients; whatever the model changes in doing so, such as BatchNorm's averages, it
    changes. Backward is not run: its rows say what would run for each gradient, if it were asked for. Raises
    NotImplementedError, with the reason, where a layer insists on Triton and can not have it.

    >>> import torch, tritonconv
    >>> layer = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> print(tritonconv.explain(layer, torch.zeros(1, 3, 8, 8, dtype=torch.float64)))
    Conv2d  forward          fprop  reference  [1]
    Conv2d  input gradient   dgrad  reference  [1]
    Conv2d  weight gradient  wgrad  reference  [1]
    [1] not triton: the kernels compute in float16, bfloat16 or float32, not in float64
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
    """Hands the name and the arguments of every call of an operator to `note`."""

    def __init__(self, note: Callable[[str, tuple[Any, ...]], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            self.note(func._opname, args)
        return func(*args, **(kwargs or {}))


class _Notes:
    """What is known of every call of an operator, and the module it was made in."""

    def __init__(self, name: str) -> None:
        self.path = [name]
        self.explanation = Explanation()

    def enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self.path.append(name)

    def leave(self, *_: Any) -> None:
        self.path.pop()

    def note(self, name: str, args: tuple[Any, ...]) -> None:
        operator = operator_of(name)
        sampling = Sampling.of(args)
        geometry = geometry_of(operator, args[0].shape, args[1].shape, sampling)
        wish = sampling.implementation
        for computed in (operator, *(other for other in OPERATOR.values() if other != operator)):
            problem = Problem(computed, geometry, args[0].dtype, args[0].device)
            chosen = choose(problem, wish)
            preferred = IMPLEMENTATIONS[: IMPLEMENTATIONS.index(chosen)] if wish in ("auto", "triton") else ()
            reasons = {name: why_not(name, problem) or "" for name in preferred}
            what = _computes(operator, computed)
            self.explanation.append(Choice(self.path[-1], what, computed, chosen, reasons, geometry))


def _computes(operator: Operator, computed: Operator) -> str:
    """What `computed` is for in a call whose forward is `operator`."""
    if computed == operator:
        return "forward"
    return "weight gradient" if LEAVES_OUT[computed] == "weight" else "input gradient"
