"""Run one random problem and compare it with the oracle."""

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
    """Run forward and backward of `case` between guard bands. Return what is wrong, or None.

    Triton's interpreter runs it with the small tiles that `seed` draws, a GPU with the tiles that are picked for it.
    """
    try:
        with guarded_memory(), small_tiles(seed):
            check(case, device, integer, seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def small_tiles(seed: int) -> Iterator[None]:
    """In the interpreter, run kernels with the tiles that `seed` draws, within this block."""
    if not runtime.interpreted():  # on a GPU, every problem would compile kernels for its own tiles
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tile_choice,
            "pick",
            lambda geometry, operator, operands, _: drawn_tile(seed, operator, geometry, operands.tma_possible),
        )
        yield
