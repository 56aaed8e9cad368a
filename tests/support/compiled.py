"""A fixture of tests that compile."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Start and end with nothing compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
