"""What is wrong with one problem, if anything is."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.cases import Case
from tests.support.guards import guarded_memory
from tests.support.steps import check
from tests.sweep.problems import drawn_tile
from tritonconv import runtime
from tritonconv.launch import tile_choice


def wrong(case: Case, device: str, integer: bool, seed: int) -> str | None:
    """What is wrong with a step of `case`, in guarded memory and, in the interpreter, with the tiles of that seed."""
    try:
        with guarded_memory(), small_tiles(seed):
            check(case, device, integer, seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def small_tiles(seed: int) -> Iterator[None]:
    if not runtime.interpreted():  # or each problem would be compiled anew
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tile_choice,
            "pick",
            lambda geometry, operator, operands, _: drawn_tile(seed, operator, geometry, operands.blocks),
        )
        yield
