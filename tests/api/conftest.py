"""The fixture that the tests of the interface share."""

from types import ModuleType

import pytest

import tritonconv
from tritonconv import reference


@pytest.fixture(params=[reference, tritonconv], ids=["reference", "tritonconv"])
def ours(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two packages with torch's interface."""
    return request.param
