"""Fake tensors and meta tensors: results and gradients have the metadata of the real ones (torch's TestFakeTensor)."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.common_utils import noncontiguous_like

from tests.support.cases import laid_out
from tests.support.opinfo import FEW, Problem, leaves, problems

# How input, weight and bias lie in memory. A bias has one axis, and is contiguous or has gaps.
LAYOUTS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "noncontiguous": lambda *tensors: tuple(map(noncontiguous_like, tensors)),
    "channels_last": lambda x, *others: (laid_out(x, "channels_last"), *others),
    "channels_last_weight": lambda x, weight, *bias: (x, laid_out(weight, "channels_last"), *bias),
}


def all_metadata(function: Callable[..., Tensor], operands: Sequence[Tensor], device: str) -> list[dict[str, Any]]:
    """Return the metadata of the result and of all gradients. Assert that all are on `device`.

    The incoming gradient is that of a sum: one number, expanded.
    """
    given = leaves(operands)
    y = function(*given)
    found = [y, *torch.autograd.grad(y.sum(), given)]
    assert {t.device.type for t in found} == {device}
    return [dict(shape=t.shape, stride=t.stride(), dtype=t.dtype, requires_grad=t.requires_grad) for t in found]


def comparable(problem: Problem, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the metadata. For the reference, leave out strides of axes of extent 1, as torch's own test does.

    There, torch's operators on fake tensors do not always give the strides of the real ones.
    """
    if problem.implementation != "reference":
        return found
    return [d | {"stride": [s for s, n in zip(d["stride"], d["shape"], strict=True) if n != 1]} for d in found]


@cache
def real_metadata(problem: Problem, layout: str, autocast: bool = False) -> list[dict[str, Any]]:
    operands = LAYOUTS[layout](*problem.operands(torch.float32 if autocast else None))
    with torch.autocast(problem.device, torch.bfloat16, enabled=autocast):
        return comparable(problem, all_metadata(problem.ours, operands, problem.device))


@problems(in_triton=FEW)
def test_fake_tensors(problem: Problem) -> None:
    function = problem.ours
    for name, layout in LAYOUTS.items():
        with FakeTensorMode() as mode:
            operands = [mode.from_tensor(t) for t in layout(*problem.operands())]
            found = all_metadata(function, operands, problem.device)
        assert comparable(problem, found) == real_metadata(problem, name), name


@problems(quick=FEW, in_triton=FEW)
def test_meta_tensors(problem: Problem) -> None:
    for name, layout in LAYOUTS.items():
        operands = layout(*problem.operands())
        without_data = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in operands]
        found = all_metadata(problem.ours, without_data, "meta")
        assert comparable(problem, found) == real_metadata(problem, name), name


@problems(quick=FEW, in_triton={})
def test_fake_tensors_under_autocast(problem: Problem) -> None:
    layout, function = "noncontiguous", problem.ours
    operands = LAYOUTS[layout](*problem.operands(torch.float32))
    with FakeTensorMode() as mode, torch.autocast(problem.device, torch.bfloat16):
        fakes = all_metadata(function, [mode.from_tensor(t) for t in operands], problem.device)
    expected = real_metadata(problem, layout, autocast=True)
    assert expected[0]["dtype"] == torch.bfloat16
    assert comparable(problem, fakes) == expected
