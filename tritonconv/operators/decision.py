"""Decide what runs a call, and plan it.

`dispatch.choose` chooses the implementation. If that is Triton, `launch.planners` plans the kernels. `compute` runs the
decision, and `explain` and `warmup` read it.
"""

from typing import NamedTuple

from tritonconv import dispatch, runtime
from tritonconv.call import Call
from tritonconv.fallback_warning import warn_once
from tritonconv.launch import planners
from tritonconv.launch.plan import Plan


class Decision(NamedTuple):
    """The implementation that runs `call`.

    `reasons` says, for each implementation that was asked before it, why that one can not run the call. It is empty if
    the call names its implementation. `plan` is the Triton launch plan, or None if another implementation runs the
    call.
    """

    call: Call
    implementation: str
    reasons: dict[str, str]
    plan: Plan | None

    def warn_of_fallback(self) -> None:
        """Warn with `FallbackWarning` if a call on a GPU falls back from Triton. Each reason warns once in a process.

        A call that asked for the reference does not warn.
        """
        reason = self.reasons.get("triton")
        if reason is not None and runtime.is_gpu(self.call.device):
            operator, implementation = self.call.operator, self.implementation
            warn_once(f"{operator} runs as the {implementation} (plain PyTorch), because {reason}", reason)


def decide(call: Call) -> Decision:
    """Return which implementation runs `call`, with a plan if that is Triton. No kernel is started.

    The tensors of the call may have no data (`Call.without_data`). Then the plan can be read and its kernels can be
    compiled, but not started. Raise NotImplementedError, with the reason, if the call names an implementation that can
    not run it.
    """
    implementation, reasons = dispatch.choose(call)
    plan = planners.plan(call, runtime.gpu_of(call.device)) if implementation == "triton" else None
    return Decision(call, implementation, reasons, plan)
