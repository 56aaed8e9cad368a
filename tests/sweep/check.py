"""What is wrong with one problem, if anything is."""

from tests.cases import Case
from tests.guards import guarded_memory
from tests.steps import check


def wrong(case: Case, device: str, integer: bool, seed: int) -> str | None:
    """What is wrong with a step of `case`, in guarded memory."""
    try:
        with guarded_memory():
            check(case, device, integer, seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
