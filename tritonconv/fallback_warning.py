"""The warning that a call on a GPU falls back to something else, once for each reason."""

import warnings


class FallbackWarning(UserWarning):
    """A call on a GPU falls back: to the reference, or to another way in Triton, for example a smaller tile.

    The message says why. Each reason warns once in a process. A call that asked for the reference does not warn.

    To stop a training run at the first fallback, make the warning an error:

    >>> import warnings
    >>> import tritonconv
    >>> def train() -> None: ...
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", tritonconv.FallbackWarning)
    ...     train()
    """


_said: dict[str, object] = {}


def warn_once(message: str, reason: str) -> None:
    """Warn with `message`, unless a warning for this `reason` was given before in this process.

    Raise FallbackWarning, this time and the next, if the user's filter makes the warning an error.
    """
    mine = object()
    # One atomic step: if several threads come here, one of them wins.
    if _said.setdefault(reason, mine) is not mine:
        return
    try:
        warnings.warn(
            f"tritonconv: {message} (tritonconv.explain(model, input) lists every layer)", FallbackWarning, stacklevel=3
        )
    except FallbackWarning:
        # The user's filter made it an error. It will be raised the next time, too.
        del _said[reason]
        raise
