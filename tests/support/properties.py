"""hypothesis, for tests of what must hold for every input. Tests import `given` and `st` from here.

A test draws the same inputs in every run, whatever `--seed` is. No test fails because it is slow, and nothing is
written to the disk. Where hypothesis is not installed, the modules that import this one are skipped.
"""

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

__all__ = ["given", "settings", "st"]

settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repeatable")
