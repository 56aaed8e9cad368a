"""The fixture `ours`, which the tests of torch's interface share."""

from types import ModuleType

import pytest

import tritonconv
from tritonconv import reference


@pytest.fixture(params=[reference, tritonconv], ids=["reference", "tritonconv"])
def ours(request: pytest.FixtureRequest) -> ModuleType:
    """The two packages with torch's interface, one after the other: the reference and tritonconv."""
    return request.param
