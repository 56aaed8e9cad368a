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
    """Return what is wrong with forward and backward of `case`, run between guard bands, or None if they are right.

    If `integer`, the operands are small integers, and results must be exact. `seed` draws the operands. In Triton's
    interpreter it also draws small tiles, while a GPU runs the tiles that `pick` chooses.
    """
    try:
        with guarded_memory(), small_tiles(seed):
            check(case, device, integer, seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def small_tiles(seed: int) -> Iterator[None]:
    """Within this block, run interpreted kernels with the tiles that `seed` draws. On a GPU this does nothing."""
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
