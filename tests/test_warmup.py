"""`tritonconv.warmup`: what it compiles is what a step would launch, and what Triton then finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritonconv
from tritonconv import launch, processor

ROOT = Path(__file__).parent.parent


def model() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        tritonconv.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        tritonconv.Conv2d(16, 8, 3, bias=False, stride=2),
        tritonconv.ConvTranspose2d(8, 3, 4, stride=2),
    )


def test_the_operators_of_a_step() -> None:
    """Forward and backward, the bias's gradient with the weight's, and no gradient of the image."""
    from tritonconv.warmup import step_calls

    network, image = model(), torch.randn(2, 3, 9, 9)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = [name for name, _ in step_calls(network, (image,))]
    assert names[:3] == ["fprop", "fprop", "dgrad"]
    # The transposed layer's bias belongs to the image side, and is summed by torch.
    assert sorted(names[3:]) == ["dgrad", "fprop", "wgrad", "wgrad", "wgrad_with_bias"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_variants_are_those_of_a_real_step(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    from tritonconv.warmup import launches_of, step_calls

    network, image = model().to(device), torch.randn(2, 3, 9, 9, device=device)
    foreseen = {each.variant for call in step_calls(network, (image,)) for each in launches_of(*call)}
    launched = set()
    run = launch.run

    def noted(plan: launch.Plan) -> tuple[torch.Tensor, ...]:
        launched.update(each.variant for each in plan.launches)
        return run(plan)

    monkeypatch.setattr(launch, "run", noted)
    network(image).square().sum().backward()
    assert launched == foreseen
    assert {name for name, *_ in launched} == {"fprop_kernel", "dgrad_kernel", "wgrad_kernel", "sum_partials_kernel"}


@pytest.mark.skipif(not processor.interpreted(), reason="on a GPU there is something to compile")
def test_it_says_when_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    tritonconv.warmup(model(), torch.randn(2, 3, 9, 9))
    assert "nothing to compile, because Triton's interpreter runs the 8 operators" in capsys.readouterr().out


# In a process of its own, which compiles, for a GPU that is not there.
SCRIPT = """
import sys, torch, tritonconv
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from tests.test_warmup import model
from tritonconv import dispatch, processor, tiles
module = sys.modules["tritonconv.warmup"]

driver.set_active(module.Elsewhere(GPUTarget("cuda", 90, 32)))
processor.device_of = lambda _: tiles.Device.of(90, 132)
dispatch._why_not_device = lambda _: None
hits = []
knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
with torch.autocast("cpu", torch.bfloat16):
    tritonconv.warmup(model(), torch.randn(2, 3, 9, 9), processes=2)
assert hits and all(hits), "what the other processes compiled was not found"
"""


def test_compiling_in_other_processes(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    printed = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert " compiled in 2 processes, 0 found in Triton's cache" in printed[0]
    assert ": 0 compiled in 2 processes, " in printed[1]
