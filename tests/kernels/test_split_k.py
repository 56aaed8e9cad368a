"""What wgrad writes itself, what a second kernel adds up, and the memory for both."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_plans import GATHER, STRIDED, TMA, call
from tests.support.gpus import H100
from tests.support.plans import planned
from tritonconv import fallback_warning
from tritonconv.launch import layout, split_k
from tritonconv.tiling.tile import Tile

pytestmark = pytest.mark.first


@pytest.mark.parametrize(
    ("tile", "varies", "channels_last", "direct"),
    [
        (TMA, "", True, True),
        (replace(TMA, SPLIT_K=2), "", True, False),
        (TMA, "", False, False),
        (GATHER, "", True, False),
        (GATHER, "b", True, True),
        (replace(GATHER, SPLIT_K=2), "b", True, False),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_what_wgrad_writes_itself(tile: Tile, varies: str, channels_last: bool, direct: bool, with_bias: bool) -> None:
    """A second kernel adds up the weight unless the first wrote it, and the bias if there is one.

    It has a program for each block of what it adds up. Only memory of its own is a workspace.
    """
    if varies and with_bias:
        return
    geometry = replace(STRIDED, C=80, F=32, varies=varies)
    plan = planned(call("wgrad", geometry, channels_last=channels_last, finds_bias=with_bias), tile, H100)
    first, *second = plan.launches
    weight, *bias = plan.results
    assert len(bias) == with_bias
    assert (first.arguments["partials_ptr"] is weight) == direct
    assert (first.arguments["bias_partials_ptr"] is not None) == with_bias
    assert len(second) == (with_bias or not direct)
    assert len(plan.workspaces) == (not direct) + with_bias
    assert not plan.reduced
    for each in second:
        given = each.arguments
        assert (given["weight_ptr"] is None) == (given["partials_ptr"] is None) == direct
        assert given["bias_ptr"] is (bias[0] if bias else None)
        assert given["filters"] == (32 * geometry.B if varies else 32)
        assert given["IN_ORDER"] == (channels_last or bool(varies))
        assert each.programs == -(-(32 if direct else weight.numel()) // split_k.SUM_BLOCK)


def test_few_splits_where_memory_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPLIT_K is halved until memory suffices, with a warning, and the plan says so. A SPLIT_K of 1 must fit."""
    enough, allocate = 2, layout.allocate

    def scarce(shape: Any, *more: Any) -> Tensor:
        if len(shape) == 5 and shape[0] > enough:
            raise torch.OutOfMemoryError("no memory")
        return allocate(shape, *more)

    monkeypatch.setattr(layout, "allocate", scarce)
    fallback_warning._said.clear()
    wide = replace(GATHER, SPLIT_K=8)
    with pytest.warns(match="into 2 parts instead of 8, for lack of memory"):
        plan = planned(call("wgrad", STRIDED), wide, H100)
    assert (plan.tile, plan.reduced) == (replace(GATHER, SPLIT_K=2), True)
    fallback_warning._said.clear()
    assert not planned(call("wgrad", STRIDED), replace(GATHER, SPLIT_K=2), H100).reduced  # without a warning
    enough = 0
    with pytest.raises(torch.OutOfMemoryError):
        planned(call("wgrad", STRIDED), wide, H100)
