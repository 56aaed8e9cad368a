"""The quick interpreter gives the bits of Triton's own, does its work once for a launch, and takes all of it back."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.cases import Case
from tests.interpreter import interpreting, settings
from tests.oracle import forward, hostile, step
from tritonconv import processor

if not processor.interpreted():
    pytest.skip("on a GPU nothing is interpreted", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

pytestmark = pytest.mark.oldest

# Gathered, in blocks, in phases, and with products of few rows, which `tl.sum` adds up.
LAST = dict(x="channels_last", weight="channels_last")
CASES = [
    Case("gathered", 2, (5, 6), (5, 4), stride=(1, 2), padding=1),
    Case("blocks", 2, (16, 16), (4, 4), padding=1, **LAST),  # type: ignore[arg-type]
    Case("transposed", 1, (6, 5), (3, 4), stride=2, transposed=True),
    Case("local", 2, (3, 4), (3, 3), (2, 2), varies="p q", bias_varies="p q"),
]


def computed(case: Case, dtype: torch.dtype) -> list[Tensor]:
    operands = case.operands(dtype)
    gradient = hostile(forward(case, *operands).shape, dtype, "contiguous")
    with tritonconv.using("triton"):
        return step(case.function(tritonconv), operands, gradient)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_bits(case: Case, dtype: str) -> None:
    with interpreting("own"):
        expected = computed(case, getattr(torch, dtype))
    with interpreting("quick"):
        actual = computed(case, getattr(torch, dtype))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def language() -> dict[tuple[str, str], Any]:
    """The members of Triton's language as they are at this moment."""
    owners = (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base)
    return {(owner.__name__, name): member for owner in owners for name, member in vars(owner).items()}


SEEN: list[dict[tuple[str, str], Any]] = []


def look() -> None:
    SEEN.append(language())


@triton.jit
def inner(total):
    return tl.sum(total, axis=0)


@triton.jit
def outer_kernel(x_ptr, BLOCK: tl.constexpr, FAILS: tl.constexpr):
    total = inner(tl.load(x_ptr + tl.arange(0, BLOCK)))
    look()
    tl.static_assert(not FAILS)
    tl.store(x_ptr, total)


def launch(fails: bool = False) -> float:
    x = torch.ones(4)
    outer_kernel[(1,)](x, 4, fails)
    return x[0].item()


@pytest.fixture(autouse=True)
def nothing_left_by_triton() -> None:
    """Triton's own leaves some replacements behind; a launch of the quick one puts these back, too."""
    with interpreting("quick"):
        launch()
    SEEN.clear()


def test_after_a_launch_the_language_is_as_before() -> None:
    """Also after one that fails."""
    before = language()
    assert tl.core.is_builtin(tl.load)
    assert launch() == 4
    assert language() == before
    with pytest.raises(InterpreterError):
        launch(fails=True)
    assert language() == before
    assert all(seen != before for seen in SEEN)
    assert len(SEEN) == 2


def test_the_language_is_looked_up_once_for_all_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any) -> None:
        raise AssertionError("looked up again")

    monkeypatch.setattr(inspect, "getmembers", lookup)
    assert launch() == 4
    with interpreting("own"), pytest.raises(AssertionError, match="looked up again"):
        launch()


def test_afterwards_it_is_tritons_own() -> None:
    def current() -> list[Any]:
        return [getattr(owner, name) for owner, name, _ in settings()["own"]]

    with interpreting("own"):
        own = current()
        with interpreting("quick"):
            assert all(a is not b for a, b in zip(own, current(), strict=True))
        assert all(a is b for a, b in zip(own, current(), strict=True))
    assert [value for *_, value in settings()["own"]] == own
