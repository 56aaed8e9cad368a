"""`tritonconv.verify` accepts right results, and reports wrong ones with a problem that can be replayed."""

import logging
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import CONV, DTYPES, TRANSPOSED, Case
from tests.support.oracle import convolution_precision, hostile, step
from tests.support.selection import in_dtypes
from tests.support.varying import VARYING, VARYING_TRANSPOSED
from tests.sweep import replay
from tritonconv import reference, tools
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import planners, start
from tritonconv.launch.plan import Plan
from tritonconv.tools.verify import named

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning"),  # numpy's, from the interpreter
]

NAMES = (
    "plain",
    "same_even_kernel",
    "strided",
    "grouped",
    "aligned",
    "offset",
    "output_padding",
    "unbatched",
    "sliced",
    "local_aligned_by_two",
    "local_stride_beyond_kernel",
    "per_sample",
    "dynamic_aligned",
)
SOME = [case for case in CONV + TRANSPOSED + VARYING + VARYING_TRANSPOSED if case.name in NAMES]


def train(case: Case, dtype: str, device: str, **drawn: Any) -> None:
    """Run forward and backward of `case` in Triton. `drawn` goes to `Case.operands`."""
    operands = case.operands(DTYPES[dtype], device, **drawn)
    with tritonconv.using("triton"), convolution_precision("ieee"):
        shape = case.function(tritonconv)(*operands).shape
        step(case.function(tritonconv), operands, hostile(shape, DTYPES[dtype], "contiguous", device=device))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: the kernels ignore the leading padding of rows."""
    plain = planners.integers
    monkeypatch.setattr(planners, "integers", lambda *args: plain(*args) | {"pad_h": 0})


@pytest.mark.parametrize(("case", "dtype"), in_dtypes(SOME))
def test_what_is_right_passes(case: Case, dtype: str, device: str) -> None:
    """All four calls are checked: three of the step, and one more forward."""
    with tritonconv.verify(1) as seen:
        train(case, dtype, device)
    assert (seen.checked, seen.skipped, seen.wrong) == (4, 0, [])


def test_an_empty_batch_passes(device: str) -> None:
    with tritonconv.verify(1) as seen:
        train(Case("empty", 0), "float32", device)
    assert (seen.checked, seen.wrong) == (4, [])


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_wrong_raises_and_can_be_replayed(transposed: bool, device: str, planted: None) -> None:
    case = Case("padded", 2, (8, 16), (6, 5), padding=(1, 0), transposed=transposed, x="channels_last")
    forward = "dgrad" if transposed else "fprop"
    with tritonconv.verify(1), pytest.raises(tritonconv.WrongResult, match=f"{forward} in float16 is wrong") as raised:
        train(case, "float16", device)
    problem = str(raised.value).split("--problem '")[1].removesuffix("'")
    assert str(replay.wrong(problem, device)).startswith(f"WrongResult: tritonconv.verify: {forward} in float16")


def test_the_problem_replays_as_right_when_it_is(device: str) -> None:
    """Every operator's problem replays, with the strides and the alignment of the operands."""
    x = torch.randn(2, 6, 5, 5, device=device, dtype=torch.float16).to(memory_format=torch.channels_last)[1:]
    y, weight = torch.randn(1, 4, 4, 4, device=device).half(), torch.randn(4, 6, 2, 2, device=device).half()
    geometry = ConvGeometry(1, 6, 5, 5, 4, 4, 4, 2, 2)
    for operator, first, second, bias in (
        ("fprop", x, weight, torch.ones(4)),
        ("dgrad", y, weight, None),
        ("wgrad", x, y, None),
    ):
        how = dict(finds_bias=operator == "wgrad")
        problem = named(Call.of_geometry(operator, geometry, (first, second), bias, **how))
        assert replay.wrong(problem, device) is None
        assert f"[{list(first.stride())},{first.data_ptr() % 16 // 2}]".replace(" ", "") in problem


@pytest.mark.parametrize("part", ["input", "weight", "bias"])
def test_what_is_wrong_in_backward_raises(part: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One element of a gradient is wrong."""
    right = start.start_kernels

    def run(plan: Plan) -> list[Any]:
        compiled = right(plan)
        spoilt = {"input": (2, 4, 6, 6), "weight": (3, 4, 3, 3), "bias": (3,)}[part]
        for result in plan.results:
            if result.shape == spoilt:
                result.view(-1)[-1] += 0.5
        return compiled

    monkeypatch.setattr(start, "start_kernels", run)
    with tritonconv.verify(1) as seen, pytest.raises(tritonconv.WrongResult):
        train(Case("backward", 2, (4, 3), (6, 6)), "float32", device)
    assert len(seen.wrong) == 1
    assert seen.checked >= 3


def test_it_can_log_instead(device: str, planted: None, caplog: pytest.LogCaptureFixture) -> None:
    with tritonconv.verify(1, on_mismatch="log") as seen, caplog.at_level(logging.ERROR, "tritonconv"):
        train(Case("padded", padding=1), "float32", device)
    assert len(seen.wrong) == len(caplog.records) == seen.checked
    assert str(seen).endswith(f"{seen.checked} wrong")


def test_a_share_of_the_calls(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.verify, "mismatch", lambda *_: None)
    operands = Case("small", 1, (1, 1), (1, 1), (1, 1)).operands(torch.float32, device)
    with tritonconv.verify(0.2) as some:
        for _ in range(300):
            tritonconv.conv2d(*operands, implementation="triton")
    assert 20 < some.checked < 120
    with tritonconv.verify(0) as none, tritonconv.verify(1) as inner:
        tritonconv.conv2d(*operands, implementation="triton")
        tritonconv.conv2d(*operands, implementation="reference")
    assert (none.checked, inner.checked) == (0, 1)
    tritonconv.conv2d(*operands, implementation="triton")
    assert inner.checked == 1


def test_blocks_that_overlap_in_threads(device: str) -> None:
    """The block that began last checks, whichever block ends first."""
    operands = Case("small", 1, (1, 1), (1, 1), (1, 1)).operands(torch.float32, device)
    blocks = [tritonconv.verify(1), tritonconv.verify(1)]
    first, second = (block.__enter__() for block in blocks)
    for block in blocks:
        block.__exit__(None, None, None)
        tritonconv.conv2d(*operands, implementation="triton")
    assert (first.checked, second.checked) == (0, 1)


def test_a_check_without_memory_is_left_out(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tools.verify, "mismatch", full)
    with tritonconv.verify(1) as seen:
        tritonconv.conv2d(*Case("small").operands(torch.float32, device), implementation="triton")
    assert str(seen) == "0 calls checked, 1 skipped, 0 wrong"


@pytest.mark.parametrize("operator", ["fprop", "wgrad"])
def test_one_image_at_a_time(operator: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image in float64 is kept while the next one is computed."""
    form, images = getattr(reference, operator), []

    def noted(image: Tensor, *rest: Any, **settings: Any) -> Tensor:
        assert sum(each() is not None for each in images) <= 2, "more than this image and its squares"
        images.append(weakref.ref(image))
        found: Tensor = form(image, *rest, **settings)
        return found

    monkeypatch.setattr(reference, operator, noted)
    with tritonconv.verify(1):
        train(Case("many", 5), "float32", device)
    assert len(images) == 2 * 5 * (2 if operator == "fprop" else 1)


def test_in_every_thread(device: str, planted: None) -> None:
    """verify checks all threads, because autograd runs backward in threads of its own."""
    found: list[BaseException] = []

    def call() -> None:
        try:
            train(Case("padded", padding=1), "float32", device)
        except tritonconv.WrongResult as error:
            found.append(error)

    with tritonconv.verify(1):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_alone(value: float, device: str) -> None:
    input, weight, bias = Case("spoilt").operands(torch.float32, device)
    input[0, 0, 0, 0] = value
    with tritonconv.verify(1) as seen:
        tritonconv.conv2d(input, weight, bias, implementation="triton")
    assert str(seen) == "0 calls checked, 1 skipped, 0 wrong"


def test_compiled_models_are_checked(device: str, planted: None) -> None:
    layer = tritonconv.Conv2d(3, 4, 3, padding=1, device=device)
    layer.implementation = "triton"
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with tritonconv.verify(1), pytest.raises(tritonconv.WrongResult):
        compiled(torch.randn(2, 3, 5, 5, device=device))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(probability=2), "'probability' must be between 0 and 1, not 2"),
        (dict(on_mismatch="panic"), "'on_mismatch' must be 'raise' or 'log', not 'panic'"),
    ],
)
def test_what_can_not_be_asked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), tritonconv.verify(**options):
        pass
