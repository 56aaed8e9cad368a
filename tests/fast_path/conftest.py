"""Fixtures: a step that was made before, for each problem and for conv2d alone."""

import pytest

from tests.support.fast_path import CONV2D, PROBLEMS, Kept, Problem


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return request.param


@pytest.fixture
def kept(problem: Problem, device: str) -> Kept:
    return Kept(problem, device)


@pytest.fixture
def kept_conv2d(device: str) -> Kept:
    return Kept(CONV2D, device)
