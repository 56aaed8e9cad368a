"""Which implementation runs, and why: for a call or for a whole model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv.call import Call
from tritonconv.geometry import COMPUTED_BY, TAKES, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER
from tritonconv.launch.layout import allocate_results
from tritonconv.operators.decision import decide
from tritonconv.tiling.pick import measured_for
from tritonconv.tiling.tile import Tile


@dataclass(frozen=True)
class Choice:
    """One operator of one call: what it computes, what runs it, and why nothing preferred to that does.

    `tile` is what a kernel would be launched with, and `measured` whether that was found to be the fastest on such a
    GPU; None where there is none. Of gradients they are those of gradients in the memory format of the call's result.
    """

    layer: str
    computes: str
    operator: Operator
    implementation: str
    reasons: dict[str, str]
    geometry: ConvGeometry
    tile: Tile | None = None
    measured: bool | None = None

    @property
    def notes(self) -> list[str]:
        found = [f"not {name}: {reason}" for name, reason in self.reasons.items()]
        if self.measured is False:
            found.append("unmeasured: a model chose the tile, for there is no measurement of such a layer on this GPU")
        return found


class Explanation(list[Choice]):
    """The choices of a call or a model, in the order of its calls. `str` gives a table, with each reason once below."""

    def __str__(self) -> str:
        if not self:
            return "no call of tritonconv"
        notes: dict[str, int] = {}
        width = max(len(choice.layer) for choice in self)
        tiles = max(len(str(choice.tile or "")) for choice in self)
        lines = []
        for choice in self:
            marks = " ".join(f"[{notes.setdefault(note, len(notes) + 1)}]" for note in choice.notes)
            how = f"{choice.computes:15}  {choice.operator:6} {choice.implementation:9}"
            tile = f"{choice.tile!s:{tiles}}  " if choice.tile else " " * (tiles + 2 if tiles else 0)
            lines.append(f"{choice.layer:{width}}  {how}  {tile}{marks}".rstrip())
        return "\n".join([*lines, *(f"[{number}] {note}" for note, number in notes.items())])

    __repr__ = __str__


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Call `function(*args, **kwargs)`, a model or a tritonconv function, and say what runs each convolution and why.

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
    """Hands every call of an operator to `note`."""

    def __init__(self, note: Callable[[Call], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            self.note(Call(func._opname, args))
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

    def note(self, call: Call) -> None:
        """Note what runs the call, and what would run each gradient, on tensors without data."""
        call = call.without_data()
        gradient, *_ = allocate_results(call, call.factors[0])
        self.add("forward", call)
        for factor in COMPUTED_BY:
            if factor in TAKES[call.operator]:
                computes = "weight gradient" if factor == "weight" else "input gradient"
                self.add(computes, call.of_gradient(factor, gradient))

    def add(self, computes: str, call: Call) -> None:
        decision, known = decide(call), None
        if decision.plan is not None and decision.plan.request.gpu != INTERPRETER:
            known = measured_for(*decision.plan.request) == decision.plan.tile
        self.explanation.append(
            Choice(
                layer=self.path[-1],
                computes=computes,
                operator=call.operator,
                implementation=decision.implementation,
                reasons=decision.reasons,
                geometry=call.geometry,
                tile=None if decision.plan is None else decision.plan.tile,
                measured=known,
            )
        )
