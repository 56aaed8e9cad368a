"""Random calls in random order: the fast path starts the same kernels as plans made anew, and returns the same bits."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tritonconv
from tests.support.cases import DTYPES, Case
from tests.support.oracle import hostile
from tests.support.outcomes import same
from tests.support.processes import python
from tests.support.recorded_calls import POOL, ROUNDS
from tests.support.ways import noted_long_ways
from tritonconv.launch import bounded_cache

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.mark.long
def test_a_thousand_calls_start_what_plans_made_anew_start(tmp_path: Path) -> None:
    """Each call is followed by its backward pass, on a fake GPU whose launches are recorded, not computed.

    Kernels, grids and arguments are the same. Tensors have the same roles, sizes, dtypes and alignment. Each problem
    takes the long way at most once in each direction, after each time that the caches are emptied.
    """
    code = "from tests.support.recorded_calls import main; main(1000, 0)"
    done = python("-c", code, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["drawn"] == len(POOL)
    assert [str(POOL[number]) for number in found["differing"]] == []
    assert all(0 < count <= ROUNDS * len(POOL) for count in found["long"])
    assert found["launches"] > 2500


LAST = dict(x="channels_last", weight="channels_last")
TINY = Case("plain", 1, (4, 4), (4, 3), (2, 2))
TINY_CASES = [
    TINY,
    replace(TINY, dtype="float16", **LAST),
    replace(TINY, bias=False),
    replace(TINY, stride=2, padding=1, dtype="bfloat16"),
    replace(TINY, dilation=2, gradient="all_zero_strides"),
    replace(TINY, groups=2, dtype="bfloat16", **LAST),
    replace(TINY, padding="same", bias_layout="sliced"),
    replace(TINY, x="offset", weight="sliced"),
    replace(TINY, transposed=True, dtype="float16"),
    replace(TINY, transposed=True, stride=2, output_padding=1, **LAST),
    replace(TINY, varies="p q", bias_varies="p q"),
    replace(TINY, varies="p q", transposed=True, size=(2, 2)),
    replace(TINY, varies="b", bias_varies="b", dtype="float16"),
    replace(TINY, varies="b p q", dtype="bfloat16"),
]


def step(case: Case, seed: int, device: str) -> list[Any]:
    """Return the result of a case and its gradients, for operands that the seed draws."""
    operands = case.operands(DTYPES[case.dtype], device, seed=seed)
    leaves = [each.requires_grad_() for each in operands if each is not None]
    y = case.function(tritonconv)(*operands)
    return [y.detach(), *torch.autograd.grad(y, leaves, hostile(y.shape, y.dtype, case.gradient, device=device))]


@pytest.mark.long
def test_sixty_calls_return_the_same_bits(device: str) -> None:
    """Results and gradients have the same bits, strides and dtypes as those of the long way.

    A problem's first call takes the long way. The second one takes the fast path, and keeps its backward pass.
    """
    rng = random.Random(0)
    drawn = [rng.choice(TINY_CASES) for _ in range(60)]
    expected = []
    with tritonconv.using("triton"):
        for seed, case in enumerate(drawn):
            bounded_cache.clear()
            expected.append(step(case, seed, device))
        bounded_cache.clear()
        with noted_long_ways() as noted:
            for seed, case in enumerate(drawn):
                assert same(step(case, seed, device), expected[seed]), f"{case.line} {seed}"
    assert set(drawn) == set(TINY_CASES)
    assert noted.count("forward") == noted.count("backward") == len(TINY_CASES)
