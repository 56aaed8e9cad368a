"""What is wrong with one problem, if anything is."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cases import Case
from tests.guards import guarded_memory
from tests.steps import check
from tests.sweep.problems import tile_of
from tritonconv import launch, processor


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
    if not processor.interpreted():  # or each problem would be compiled anew
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            launch, "pick", lambda geometry, operator, operands, _: tile_of(seed, operator, geometry, operands.blocks)
        )
        yield
