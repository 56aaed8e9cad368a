"""The warning that a call on a GPU falls back to something else, once for each reason."""

import warnings


class FallbackWarning(UserWarning):
    """A call on a GPU does not run as its user would expect: it runs by the reference, or in Triton with restrictions.

    Each reason is given once in a process. A filter makes it an error:

    >>> import warnings, tritonconv
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", tritonconv.FallbackWarning)
    """


_said: dict[str, object] = {}


def warn_once(message: str, reason: str) -> None:
    """Warn with `message`, unless a warning for this `reason` was given before."""
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
