"""wgrad's second kernel is a programmatic dependent launch (PDL) where the GPU's row says so. Plans have its marks."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.kernels.test_plans import GATHER, STRIDED, TMA, call
from tests.support import dependent_launch
from tests.support.dependent_launch import expected_marks, has_dependent_launches, marks, with_dependent_launch
from tests.support.gpus import A100, H100, MI300, RTX4090
from tests.support.plans import planned
from tritonconv import runtime
from tritonconv.geometry import Operator
from tritonconv.gpu import ARCHITECTURES, INTERPRETER, Architecture, Gpu, architecture
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Tile
from tritonconv.tools.parallel_compile import portable

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

ROWS = [*ARCHITECTURES.values(), INTERPRETER.architecture]


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_only_gpus_that_have_dependent_launches_use_them(row: Architecture) -> None:
    has_them = has_dependent_launches(Gpu(row, 1))
    assert has_them == (row.name in ("sm_90", "sm_100", "sm_103", "sm_120"))
    assert has_them or not row.dependent_launch


def test_a_gpu_without_a_row_does_not_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU has confirmed them, even if the row of the GPU that it counts as has them on."""
    monkeypatch.setitem(ARCHITECTURES, "sm_120", with_dependent_launch(Gpu.of("sm_120", 1)).architecture)
    assert architecture("sm_120").dependent_launch
    assert not architecture("sm_121").dependent_launch


def wgrad(tile: Tile, gpu: Gpu, varies: str = "", channels_last: bool = True, bias: bool = False) -> Plan:
    """Return a plan of wgrad on operands without data."""
    geometry = replace(STRIDED, C=80, F=32, varies=varies)
    return planned(call("wgrad", geometry, channels_last=channels_last, finds_bias=bias), tile, gpu)


@pytest.mark.parametrize(
    ("given", "launches"),
    [
        (dict(tile=TMA), 1),
        (dict(tile=TMA, bias=True), 2),
        (dict(tile=TMA, channels_last=False), 2),
        (dict(tile=replace(TMA, SPLIT_K=2)), 2),
        (dict(tile=GATHER), 2),
        (dict(tile=GATHER, bias=True), 2),
        (dict(tile=GATHER, varies="b"), 1),
        (dict(tile=replace(GATHER, SPLIT_K=2), varies="b"), 2),
    ],
    ids=lambda each: " ".join(map(str, each.values())) if isinstance(each, dict) else None,
)
def test_both_launches_are_marked(given: dict[str, Any], launches: int) -> None:
    """A switch in the GPU's row marks both launches if there are two. Nothing else in the plan changes."""
    off, on = (wgrad(gpu=with_dependent_launch(H100, switch), **given) for switch in (False, True))
    assert len(off.launches) == launches
    assert marks(off) == expected_marks(launches, on=False)
    assert marks(on) == expected_marks(launches, on=True)
    assert on.tile == off.tile
    for one, other in zip(off.launches, on.launches, strict=True):
        assert other.programs == one.programs
        changed = {"DEPENDENT_LAUNCH"} if launches == 2 else set()
        variants = [dict(each.variant[1:]) for each in (one, other)]
        assert "launch_pdl" not in variants[0]
        assert {name for name, value in variants[0].items() if variants[1][name] != value} == changed
        assert [*variants[0]] == [name for name in variants[1] if name != "launch_pdl"]


@pytest.mark.parametrize("gpu", [A100, RTX4090, MI300, INTERPRETER], ids=lambda gpu: gpu.architecture.name)
def test_other_gpus_do_not_get_the_launch_option(gpu: Gpu) -> None:
    """Compilers for AMD's GPUs, and the interpreter, refuse an option that they do not know."""
    plan = wgrad(GATHER, gpu, bias=True)
    assert marks(plan) == expected_marks(2, on=False)
    assert not any("launch_pdl" in each.arguments for each in plan.launches)


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_other_operators_stay_as_they_are(operator: Operator) -> None:
    gpus = H100, with_dependent_launch(H100)
    off, on = (planned(call(operator, STRIDED), TMA, gpu).launches for gpu in gpus)
    assert len(off) == 1
    assert [each.variant for each in on] == [each.variant for each in off]


def test_warmup_sends_the_launch_option_to_other_processes() -> None:
    sent = portable(wgrad(GATHER, with_dependent_launch(H100)).launches)
    options = [(name, arguments.get("launch_pdl")) for _, name, arguments in sent]
    assert options == [("wgrad_kernel", None), ("sum_partials_kernel", True)]


def test_results_are_the_same_on_a_gpu(device: str) -> None:
    """50 calls each of wgrad, split and not, with and without a bias, give the same bits with dependent launches."""
    if device == "cpu" or not has_dependent_launches(runtime.gpu_of(torch.device(device))):
        pytest.skip("this needs a GPU of sm_90 or newer")
    assert dependent_launch.differences(torch.device(device, torch.cuda.current_device())) == []
