"""NaN and infinity spread as in torch.nn, 16-bit results saturate as there, and equal calls give equal bits."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import DTYPES, Case
from tests.support.oracle import convolution_precision, forward, hostile, step, widened
from tests.support.plans import planned
from tests.support.processes import ran
from tests.support.selection import TELLING, in_dtypes
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.launch import start
from tritonconv.tiling.tile import Tile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.oldest,
    pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning"),  # numpy's, in the interpreter
]

INPUTS = [
    Case("plain", 3, (8, 20), (6, 7), padding=1),
    Case("strided", 2, (5, 16), (9, 8), stride=(2, 3), padding=2, dilation=(1, 2)),
    Case("beyond", 2, (4, 6), (5, 5), (2, 3), padding=2, stride=2),
    Case("plain", 2, (8, 5), (5, 6), stride=(1, 2), padding=1, transposed=True),
    Case("dilated", 2, (6, 16), (4, 4), stride=2, dilation=(2, 3), transposed=True),
    Case("grouped", 2, (8, 12), (6, 5), groups=4, padding=1),
    Case("depthwise", 2, (6, 6), (5, 5), groups=6, stride=2, transposed=True),
]


def kinds(tensor: Tensor) -> Tensor:
    """Return for each element 0 if it is finite, 1 for NaN, 2 for infinity and 3 for minus infinity."""
    return tensor.isnan() * 1 + tensor.isposinf() * 2 + tensor.isneginf() * 3


@pytest.mark.parametrize("values", [("nan", "nan"), ("inf", "-inf")], ids=["nan", "inf"])
@pytest.mark.parametrize(("case", "dtype"), in_dtypes(INPUTS))
def test_what_is_not_finite_spreads_as_in_torch(case: Case, values: tuple[str, str], dtype: str, device: str) -> None:
    """NaN and infinity spread as in torch: from the input to the result, and from its gradient to both other gradients.

    They do so in torch on a CPU, where the gradient of the weight also multiplies the zeros of the padding. On an H200,
    torch skips those zeros.
    """
    input, weight, bias = case.operands(DTYPES[dtype], device)
    special = torch.tensor([float(value) for value in values], device=device).to(input.dtype)
    input.view(-1)[[7, input.numel() // 2]] = special
    gradient = hostile(forward(case, input, weight, bias).shape, input.dtype, "contiguous", device=device)
    gradient.view(-1)[[3, gradient.numel() // 2]] = special
    clean = case.operands(DTYPES[dtype], device)
    for operands, incoming in (((input, weight, bias), torch.ones_like(gradient)), (clean, gradient)):
        with tritonconv.using("triton"):
            actual = step(case.function(tritonconv), operands, incoming)
        expected = step(case.function(torch.nn), [widened(t).cpu() for t in operands], incoming.double().cpu())
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(kinds(a).cpu(), kinds(e))
        assert any(kinds(e).any() for e in expected), "or nothing was to spread"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_saturate_as_in_torch(dtype: str, transposed: bool, device: str) -> None:
    """Results beyond the largest number become infinity with their sign. A sum may exceed that number and come back.

    For bfloat16 it may not: its range is that of float32, so the order of the terms decides whether a sum leaves it.
    """
    largest = torch.finfo(DTYPES[dtype]).max
    way = 1.0 if dtype == "float16" else 0.25
    case = Case("large", 1, (4, 3), (3, 4), (1, 1), bias=False, transposed=transposed)
    input, weight, _ = case.operands(DTYPES[dtype], device, integer=True)
    columns = torch.tensor([[1, 1, 1, 0.25], [-1, 0, -1, -0.25], [-way, -way, way, way / 4], [0, 0, 0.5, 0.25]])
    input[0, :, 0] = columns.mT.to(device, input.dtype) * largest
    weight.fill_(1.0)
    with tritonconv.using("triton"):
        actual = case.function(tritonconv)(input, weight, None)
    expected = case.function(torch.nn)(input.double(), weight.double(), None).to(DTYPES[dtype])
    assert kinds(expected)[0, 0, 0].tolist() == [2, 3, 0, 0]
    assert torch.equal(kinds(actual), kinds(expected))
    finite = expected.isfinite()
    assert ((actual[finite] - expected[finite]).abs() <= largest * 2**-7).all()


def test_a_weight_that_is_not_finite_spreads_to_its_filter(device: str) -> None:
    """NaN reaches all positions of its filter, even where its tap falls outside, but no other filter or group."""
    x, weight = torch.ones(2, 8, 5, 5, device=device), torch.ones(12, 4, 3, 3, device=device)
    weight[7, 1, 0, 2] = float("nan")
    y = tritonconv.conv2d(x, weight, padding=1, groups=2, implementation="triton")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[:, 7] = True
    assert torch.equal(y.isnan(), expected)
    image = tritonconv.conv_transpose2d(y.nan_to_num(1.0), weight, padding=1, groups=2, implementation="triton")
    nan = image.isnan().any((0, 2, 3))
    assert nan.nonzero().flatten().tolist() == [5]


REPEATED = [
    Case("repeated", 4, (16, 24), (9, 8), padding=1, stride=(1, 2)),
    Case("repeated", 3, (12, 18), (6, 5), stride=2, groups=2, transposed=True, x="channels_last"),
]


def bits(case: Case, device: str) -> str:
    """Return a digest of the result and all gradients of `case` in float32, computed by the kernels."""
    operands = case.operands(torch.float32, device)
    gradient = hostile(forward(case, *operands).shape, torch.float32, "contiguous", device=device)
    with tritonconv.using("triton"):
        parts = step(case.function(tritonconv), operands, gradient)
    return hashlib.sha256(b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("case", REPEATED, ids=lambda case: case.title)
def test_same_bits_every_time_in_any_thread_and_process(case: Case, device: str) -> None:
    """A GPU repeats the step a hundred times, and the interpreter, which takes a second each time, four times."""
    times = 100 if device == "cuda" else 4
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: bits(case, device), range(times)))
    code = "from tests import conftest; from tests.kernels import test_numbers as t; "
    code += f"print(t.bits(t.REPEATED[{REPEATED.index(case)}], {device!r}))"
    done = ran(code)
    assert done.returncode == 0, done.stderr
    assert found == {bits(case, device), done.stdout.strip()}


@pytest.fixture
def products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the interpreter add up the products of a step one after another. On a GPU nothing changes.

    The interpreter leaves the sum to numpy, whose library may choose another order for another number of rows. Tensor
    cores do not.
    """
    if not runtime.interpreted():
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        total = np.zeros_like(d.data)
        for column, row in zip(a.data.T, b.data, strict=True):
            total += np.multiply.outer(column, row, dtype=d.data.dtype)
        return TensorHandle(total + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


DEEP = Case("deep", 3, (80, 20), (6, 6), (1, 1), x="channels_last")
SPLIT = [*INPUTS, *REPEATED, Case("odd", 3, (3, 5), (5, 3), x="channels_last"), DEEP]


@pytest.mark.usefixtures("products_in_order")
@pytest.mark.parametrize(("case", "dtype"), in_dtypes(SPLIT, telling=(*TELLING, "odd")))
def test_splitting_a_batch_changes_nothing(case: Case, dtype: str, device: str) -> None:
    """Images computed one by one give the bits of the whole batch, though most do not begin at a multiple of 16 bytes.

    The same holds if the images are no longer channels_last.
    """
    input, weight, bias = case.operands(DTYPES[dtype], device)
    with tritonconv.using("triton"):
        function = case.function(tritonconv)
        whole = function(input, weight, bias)
        parts = [function(image, weight, bias) for image in input.split(1)]
        images = [function(image, weight, bias) for image in input]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.stack(images), whole)


@pytest.mark.skipif(not runtime.interpreted(), reason="a GPU may add up all steps of one tap in one chain")
@pytest.mark.usefixtures("products_in_order")
def test_the_depth_of_a_step_does_change_bits(device: str) -> None:
    """Another BLOCK_K gives other bits, so the tests above would notice another order of a sum."""
    x, weight, _ = DEEP.operands(torch.float32, device)
    found = []
    for depth in (16, 32):
        tile = Tile(64, 32, depth, 4, 1)
        with convolution_precision("ieee"):
            plan = planned(Call.of_geometry("fprop", DEEP.geometry, (x, weight)), tile)
        found.append(start.run(plan)[0])
    assert not torch.equal(*found)
