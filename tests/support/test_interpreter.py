"""Tests of the quick interpreter: same bits as Triton's own, one replacement a launch, and everything restored."""

import inspect
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case
from tests.support.interpreter import interpreting, settings
from tests.support.oracle import forward, hostile, step
from tritonconv import runtime

if not runtime.interpreted():
    pytest.skip("on a GPU nothing is interpreted", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

pytestmark = pytest.mark.oldest

# Gathered pixels, blocks of pixels, sub-images of a stride, and products of few rows, which are added by `tl.sum`.
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
    """Return the members of Triton's language as they are now, by the names of owner and member."""
    owners = (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base)
    return {(owner.__name__, name): member for owner in owners for name, member in vars(owner).items()}


SEEN: list[dict[tuple[str, str], Any]] = []


def look() -> None:
    """Note the members of Triton's language. `outer_kernel` calls this while it is interpreted."""
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


@triton.jit
def mixed_kernel(x_ptr, factor, BLOCK: tl.constexpr, FAILS: tl.constexpr):
    """Mix operands that need casts and broadcasts: integer types, x's dtype, blocks of different shapes, scalars.

    With FAILS, blocks of 2 and of BLOCK elements are added, which can not be broadcast.
    """
    row, column = tl.arange(0, 2), tl.arange(0, BLOCK)
    if FAILS:
        row += column
    pointers = x_ptr + row.to(tl.int64)[:, None] * BLOCK + column[None, :]
    tl.store(pointers, tl.load(pointers) * factor * (column + 1)[None, :])


def launch(fails: bool = False) -> float:
    x = torch.ones(4)
    outer_kernel[(1,)](x, 4, fails)
    return x[0].item()


@pytest.fixture(autouse=True)
def nothing_left_by_triton() -> None:
    """Undo replacements that Triton's own interpreter left behind: a launch of the quick one restores them, too."""
    with interpreting("quick"):
        launch()
    SEEN.clear()


def test_after_a_launch_the_language_is_as_before() -> None:
    """A launch restores the members of the language, also a launch that fails."""
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


def replaced() -> list[Any]:
    """Return the current values of the attributes that the quick interpreter sets."""
    return [getattr(owner, name) for owner, name, _ in settings()["own"]]


def test_within_a_block_it_is_tritons_own() -> None:
    with interpreting("own"):
        *functions, options = replaced()
        assert all(function.__module__.startswith("triton.") for function in functions)
        assert options == interpreter.InterpreterOptions()
        with interpreting("quick"):
            assert all(a is not b for a, b in zip([*functions, options], replaced(), strict=True))
        assert replaced() == [*functions, options]


@pytest.mark.parametrize("kind", ["own", "quick"])
def test_operands_that_do_not_agree(kind: Literal["own", "quick"]) -> None:
    """Both interpreters cast, broadcast and refuse the same operands."""

    def of(dtype: torch.dtype) -> list[float]:
        x = torch.ones(8, dtype=dtype)
        mixed_kernel[(1,)](x, 3, 4, False)
        return x.tolist()

    with interpreting(kind):
        assert of(torch.float32) == [3, 6, 9, 12, 3, 6, 9, 12]
        assert of(torch.float16) == [3, 6, 9, 12, 3, 6, 9, 12]
        assert of(torch.int64) == [3, 6, 9, 12, 3, 6, 9, 12]
        with pytest.raises(InterpreterError, match="incompatible dimensions"):
            mixed_kernel[(1,)](torch.ones(8), 3, 4, True)
