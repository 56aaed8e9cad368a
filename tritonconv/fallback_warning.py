"""What the user of a GPU is told, once."""

import warnings


class FallbackWarning(UserWarning):
    """A call on a GPU does not run as its user would expect: as the reference, or in Triton but with less.

    Once for each reason and process.
    """


_said: dict[str, object] = {}


def warn_once(message: str, reason: str) -> None:
    """Warn with `message`, unless something was said about `reason` already."""
    mine = object()
    # One step, in which of several threads one wins.
    if _said.setdefault(reason, mine) is not mine:
        return
    try:
        warnings.warn(
            f"tritonconv: {message} (tritonconv.explain(model, input) lists every layer)", FallbackWarning, stacklevel=3
        )
    except FallbackWarning:
        # An error by the user's filter, and so the next time, too.
        del _said[reason]
        raise
