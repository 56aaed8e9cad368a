"""What is remembered as failed: each failure by itself, and which calls it keeps from Triton."""

from dataclasses import replace

import pytest
import torch

from tests.support.gpus import A100, H100
from tests.support.plans import call_of, meta_factors
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.launch import failures, plan_cache
from tritonconv.launch.failures import Failure, NoKernel, NoTma, NoTriton, TileTooLarge
from tritonconv.tiling.tile import Tile

pytestmark = pytest.mark.first

GEOMETRY = ConvGeometry(B=1, C=4, H=5, W=5, F=6, P=3, Q=3, R=3, S=3)
TILE, CPU, CUDA = Tile(16, 16, 16, 4, 1), torch.device("cpu"), torch.device("cuda")
FAILURES: list[Failure] = [
    TileTooLarge("fprop", H100, TILE),
    TileTooLarge("dgrad", H100, TILE),
    TileTooLarge("fprop", A100, TILE),
    TileTooLarge("fprop", H100, replace(TILE, BLOCK_M=32)),
    NoTma("fprop", H100),
    NoTma("dgrad", H100),
    NoTma("fprop", A100),
    NoKernel("fprop", "", torch.float16, CPU),
    NoKernel("dgrad", "", torch.float16, CPU),
    NoKernel("fprop", "b", torch.float16, CPU),
    NoKernel("fprop", "", torch.float32, CPU),
    NoKernel("fprop", "", torch.float16, CUDA),
    NoTriton(CPU),
    NoTriton(CUDA),
]


def call(
    operator: Operator = "fprop", varies: str = "", dtype: torch.dtype = torch.float16, device: torch.device = CPU
) -> Call:
    geometry = replace(GEOMETRY, varies=varies)
    return call_of(operator, geometry, meta_factors(geometry, dtype), device=device)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_only_what_failed_is_remembered(failure: Failure, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered until it is removed. Either change empties all caches of plans."""
    assert not any(map(failures.happened, FAILURES))
    monkeypatch.setitem(plan_cache.plans.entries, "a key", "a plan")
    failures.add(failure, "why")
    assert not plan_cache.plans.entries
    assert [each for each in FAILURES if failures.happened(each)] == [failure]
    monkeypatch.setitem(plan_cache.plans.entries, "a key", "a plan")
    failures.remove(failure)
    assert not plan_cache.plans.entries
    assert not any(map(failures.happened, FAILURES))
    failures.remove(failure)  # it may be gone already


def test_which_calls_are_kept_from_triton() -> None:
    """A device that failed keeps all its calls, and a kernel that failed those of its operator, weights and dtype."""
    others = [call("dgrad"), call(varies="b"), call(dtype=torch.float32), call(device=CUDA)]
    assert failures.why_not_again(call()) is None
    failures.add(NoTma("fprop", H100), "no TMA")
    assert failures.why_not_again(call()) is None
    failures.add(NoKernel.of(call()), "no kernel")
    assert failures.why_not_again(call()) == "no kernel"
    assert [failures.why_not_again(each) for each in others] == [None] * 4
    failures.add(NoTriton(CPU), "no Triton")
    assert [failures.why_not_again(each) for each in (call(), *others)] == ["no Triton"] * 4 + [None]
