"""The tests of this folder run what torch's own test suite checks of an operator with its OpInfo."""

from collections.abc import Iterator

import pytest

from tests.support.oracle import convolution_precision


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """Compute in float32 without TF32, so that sums of products of small integers are exact on a GPU, too."""
    with convolution_precision("ieee"):
        yield
