"""`tritonconv.verify` compares all elements of all operators, with the right tolerance, and skips no other calls."""

from contextlib import nullcontext
from itertools import product
from math import inf, nan
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case
from tests.support.oracle import assert_close, expected_step, forward
from tests.support.subsets import SHARED, VARYING
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.tools import verify
from tritonconv.tools.tolerance import bound
from tritonconv.tools.verify import Verification, WrongResult, check, mismatch, parts, precision

EVERY = pytest.mark.parametrize("case", SHARED + VARYING, ids=str)


class Checked(NamedTuple):
    """A call, its results in float64, and for each sum in them the sum of its squared products, by torch."""

    call: Call
    expected: list[Tensor]
    squares: list[Tensor]

    @property
    def right(self) -> list[Tensor]:
        """The right results in the dtype of the call."""
        return [t.to(self.call.dtype) for t in self.expected]


def calls_of(case: Case, dtype: torch.dtype, times: float = 1) -> list[Checked]:
    """Return the calls of forward and backward of `case`, whose operands are random numbers of about `times`."""
    operands = [None if t is None else (times * torch.randn_like(t)).to(dtype) for t in case.operands()]
    input, weight, bias = operands
    gradient = (times * torch.randn_like(forward(case, *operands))).to(dtype)
    values = expected_step(case, operands, gradient)
    squares = expected_step(
        case, [None if t is None else t.double().square() for t in operands], gradient.double().square()
    )
    if case.batch is None:
        input, gradient = input[None], gradient[None]
        values[:2], squares[:2] = ([t[None] for t in each[:2]] for each in (values, squares))
    names, sides = ("fprop", "dgrad"), (input, gradient)
    if case.transposed:
        names, sides = names[::-1], sides[::-1]
    finds_bias = not case.transposed and not case.varies and bias is not None
    geometry = case.geometry
    calls = [
        Call.of_geometry(names[0], geometry, (input, weight), bias),
        Call.of_geometry(names[1], geometry, (gradient, weight)),
        Call.of_geometry("wgrad", geometry, sides, finds_bias=finds_bias),
    ]
    results = [slice(0, 1), slice(1, 2), slice(2, 4 if finds_bias else 3)]
    return [Checked(call, values[own], squares[own]) for call, own in zip(calls, results, strict=True)]


@EVERY
def test_the_parts_are_all_of_the_results(case: Case) -> None:
    """The parts in float64 are torch's results, and their scale is the root of the sum of the squared products."""
    for call, expected, squares in calls_of(case, torch.float32):
        results = [t.float() for t in expected]
        found = list(parts(call, results))
        for i, wanted in enumerate((results, expected, squares)):
            whole = [part[i] for part in found]
            if call.operator != "wgrad" or call.geometry.per_sample:
                whole = [torch.cat(whole)]
            for a, e in zip(whole, wanted, strict=True):
                assert_close(a.square() if i == 2 else a, e.to(a.dtype), "float64", f"{call.operator} {i}")


@EVERY
def test_every_wrong_element_is_found(case: Case) -> None:
    """An error of twice what is allowed is found in each result, and half of what is allowed is not."""
    for checked in calls_of(case, torch.float32):
        call, expected, squares = checked
        name, most = precision(call.dtype), bound(precision(call.dtype), call.geometry.gemm(call.operator).K)
        assert mismatch(call, checked.right) is None
        for i, (result, square) in enumerate(zip(expected, squares, strict=True)):
            size = torch.maximum(result.abs(), square.sqrt()).flatten()
            first, *_, last = size.nonzero().flatten().tolist()
            for place, factor in product((first, last), (0.5, 2, -2)):
                spoilt = [t.clone() for t in expected]
                spoilt[i].view(-1)[place] += factor * most * size[place]
                found = mismatch(call, [t.float() for t in spoilt])
                assert (found is None) == (factor == 0.5)
                assert found is None or found.startswith(f"{call.operator} in {name} is wrong: its relative error")


@pytest.mark.parametrize("case", SHARED[::3] + VARYING[1::4], ids=str)
def test_every_wrong_element_is_found_where_results_are_infinite(case: Case) -> None:
    """In float16, infinity is right for some elements of each operator. Any other value there is found."""
    for checked in calls_of(case, torch.float16, times=220):
        right = checked.right
        assert mismatch(checked.call, right) is None
        for i, result in enumerate(right):
            if not result.isinf().any():
                continue
            infinite, finite = (
                int(each.int().argmax()) for each in (result.flatten().isinf(), result.flatten().isfinite())
            )
            sign = float(result.view(-1)[infinite].sign())
            where_infinite = [(infinite, sign * wrong) for wrong in (-inf, nan, 65504, 65000, 0)]
            for place, wrong in (*where_infinite, (finite, inf), (finite, -inf), (finite, nan)):
                spoilt = [t.clone() for t in right]
                spoilt[i].view(-1)[place] = wrong
                assert mismatch(checked.call, spoilt) is not None, (checked.call.operator, i, place, wrong)


def some_call(**options: Any) -> Call:
    """Return a call of fprop on random numbers, with a bias."""
    case = SHARED[0]
    input, weight, bias = case.operands()
    return Call.of_geometry("fprop", case.geometry, (input, weight), bias, **options)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls whose results are compared from now on, each found right."""
    calls: list[Call] = []
    monkeypatch.setattr(verify, "mismatch", lambda call, _: calls.append(call))
    return calls


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("spoilt", ["input", "weight", "bias"])
def test_calls_with_an_operand_that_is_not_finite_are_skipped(spoilt: str, value: float, compared: list[Call]) -> None:
    call, seen = some_call(), Verification(1, "raise")
    {"input": call.factors[0], "weight": call.factors[1], "bias": call.bias}[spoilt].view(-1)[-1] = value
    check(seen, call, [])
    assert str(seen) == "0 calls checked, 1 skipped, 0 wrong"
    assert not compared


def test_a_call_without_a_bias_is_compared(compared: list[Call]) -> None:
    case, seen = SHARED[1], Verification(1, "raise")
    check(seen, Call.of_geometry("fprop", case.geometry, case.operands()[:2]), [])
    assert (seen.checked, len(compared)) == (1, 1)


@pytest.mark.parametrize(("where", "capturing"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_only_calls_that_a_cuda_graph_captures_are_skipped(
    where: str, capturing: bool, compared: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No operand is read while a graph is captured. A graph does not capture what runs on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    skipped = capturing and where == "cuda"
    call, seen = some_call(device=torch.device(where)), Verification(1, "raise")
    check(seen, call.without_data() if skipped else call, [])
    assert (seen.checked, seen.skipped, len(compared)) == (not skipped, skipped, not skipped)


@pytest.mark.parametrize(
    ("drawn", "probability", "checked"), [(0.0, 0, 0), (0.5, 0.5, 0), (0.49, 0.5, 1), (0.99, 1, 1)]
)
def test_the_probability(
    drawn: float, probability: float, checked: int, compared: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number is drawn that is at least 0 and less than 1."""
    monkeypatch.setattr(verify._random, "random", lambda: drawn)
    seen = Verification(probability, "raise")
    check(seen, some_call(), [])
    assert (seen.checked, seen.skipped, len(compared)) == (checked, 0, checked)


def test_a_wrong_result_is_raised_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted as checked, and its message is kept."""
    call = some_call()
    wrong = [torch.zeros(call.result_shape)]
    for on_mismatch in ("raise", "log"):
        seen = Verification(1, on_mismatch)
        if on_mismatch == "raise":
            with pytest.raises(WrongResult, match=r"fprop in .* is wrong"):
                check(seen, call, wrong)
        else:
            check(seen, call, wrong)
        assert str(seen) == "1 calls checked, 0 skipped, 1 wrong"
        assert seen.wrong[0].startswith("tritonconv.verify: fprop in ")
    assert [record.getMessage() for record in caplog.records] == seen.wrong


@pytest.mark.parametrize(
    ("error", "skipped"), [(torch.OutOfMemoryError("full"), 1), (RuntimeError("broken"), 0)], ids=str
)
def test_only_a_lack_of_memory_skips_a_call(error: Exception, skipped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(verify, "mismatch", fails)
    seen = Verification(1, "raise")
    with nullcontext() if skipped else pytest.raises(RuntimeError, match="broken"):
        check(seen, some_call(), [])
    assert (seen.checked, seen.skipped) == (0, skipped)


@pytest.mark.parametrize("probability", [-0.01, 1.01, nan])
def test_what_is_no_probability(probability: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"), tritonconv.verify(probability):
        pass


@pytest.mark.parametrize(
    ("dtype", "allowed", "interpreted", "name"),
    [
        (torch.float32, True, False, "tf32"),
        (torch.float32, False, False, "float32"),
        (torch.float32, True, True, "float32"),
        (torch.float16, True, False, "float16"),
        (torch.float16, True, True, "float16"),
        (torch.bfloat16, True, False, "bfloat16"),
        (torch.bfloat16, False, True, "bfloat16 cut"),
    ],
)
def test_the_tolerance(
    dtype: torch.dtype, allowed: bool, interpreted: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`allowed` says whether torch allows TF32."""
    monkeypatch.setattr(runtime, "tf32_allowed", lambda: allowed)
    monkeypatch.setattr(runtime, "interpreted", lambda: interpreted)
    assert precision(dtype) == name
