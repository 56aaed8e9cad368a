"""Fixtures: a step that was made before, for each problem and for conv2d alone; and notes of the long ways taken."""

from collections.abc import Iterator

import pytest

from tests.support.fast_path import CONV2D, PROBLEMS, Kept, Problem
from tests.support.ways import noted_long_ways


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return request.param


@pytest.fixture
def kept(problem: Problem, device: str) -> Kept:
    return Kept(problem, device)


@pytest.fixture
def kept_conv2d(device: str) -> Kept:
    return Kept(CONV2D, device)


@pytest.fixture
def long_ways() -> Iterator[list[str]]:
    """What has taken the long way so far, in order, as `noted_long_ways` notes it."""
    with noted_long_ways() as noted:
        yield noted
