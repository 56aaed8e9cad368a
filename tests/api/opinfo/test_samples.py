"""The samples that run in `make test` show every argument of the functions, and their numbers are no zeros."""

import pytest

from tests.support.opinfo import NAMES, TELLING, TINY, Problem


@pytest.mark.parametrize("chosen", [TELLING, TINY], ids=["telling", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_chosen_samples_show_every_argument(name: str, chosen: dict[str, tuple[int, ...]]) -> None:
    words = {word for place in chosen[name] for word in Problem(name, "reference", place).special}
    strings = {"same", "valid"} if name == "conv2d" else {"output_padding"}
    assert words >= {"stride", "padding", "dilation", "groups", "unbatched", "bias", "plain"} | strings
