"""What runs a call, and why.

`dispatch.choose` chooses the implementation. If that is Triton, the call is planned.
"""

from typing import NamedTuple

from tritonconv import dispatch, runtime
from tritonconv.call import Call
from tritonconv.fallback_warning import warn_once
from tritonconv.launch import planners
from tritonconv.launch.plan import Plan


class Decision(NamedTuple):
    """The implementation that runs `call`, and the reasons why those that are preferred to it do not, by name.

    `plan` is what Triton would start; None where another implementation runs the call.
    """

    call: Call
    implementation: str
    reasons: dict[str, str]
    plan: Plan | None

    def warn_of_fallback(self) -> None:
        """Warn, once for each reason, where the user of a GPU would have expected a kernel."""
        reason = self.reasons.get("triton")
        if reason is not None and runtime.is_gpu(self.call.device):
            warn_once(f"{self.call.operator} runs as {self.implementation}: {reason}", reason)


def decide(call: Call) -> Decision:
    """Decide what runs `call`, and plan it. Nothing is started.

    The plan of a call without data can be looked at, and its kernels can be compiled. Raises NotImplementedError, with
    the reason, if the call insists on an implementation that can not run it.
    """
    implementation, reasons = dispatch.choose(call)
    plan = planners.plan(call, runtime.gpu_of(call.device)) if implementation == "triton" else None
    return Decision(call, implementation, reasons, plan)
