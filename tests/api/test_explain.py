"""`tritonconv.explain` says what runs, with which tile, and why."""

import pytest
import torch

import tritonconv
from tests.support.plans import call_of, planned
from tritonconv import dispatch, runtime
from tritonconv.gpu import Gpu

torch.manual_seed(0)
x = torch.randn(1, 4, 5, 5)


def test_explain_a_model() -> None:
    model = torch.nn.Sequential(
        tritonconv.Conv2d(4, 6, 3), torch.nn.ReLU(), torch.nn.Sequential(tritonconv.ConvTranspose2d(6, 4, 3))
    )
    explanation = tritonconv.explain(model, x)
    rows = [(choice.layer, choice.computes, choice.operator) for choice in explanation]
    assert rows == [
        ("0", "forward", "fprop"),
        ("0", "input gradient", "dgrad"),
        ("0", "weight gradient", "wgrad"),
        ("2.0", "forward", "dgrad"),
        ("2.0", "input gradient", "fprop"),
        ("2.0", "weight gradient", "wgrad"),
    ]
    if runtime.interpreted():
        assert {choice.implementation for choice in explanation} == {"triton"}
        assert not any(choice.reasons for choice in explanation)
    explanation = tritonconv.explain(model.double(), x.double())
    assert {choice.implementation for choice in explanation} == {"reference"}
    assert (
        str(explanation).count("not triton: the kernels compute in float16, bfloat16 or float32, not in float64") == 1
    )
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_explain_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launch on a GPU would choose them, with one note for all that were not measured on such a one."""
    pytest.importorskip("triton")
    layer = tritonconv.Conv2d(64, 128, 3, padding=1).half().to(memory_format=torch.channels_last)
    image = torch.randn(32, 64, 28, 28).half().contiguous(memory_format=torch.channels_last)
    gpu = Gpu.of("sm_90", 132, "a GPU without a table")
    with tritonconv.using("reference"):
        assert {(choice.tile, choice.measured) for choice in tritonconv.explain(layer, image)} == {(None, None)}
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "gpu_of", lambda _: gpu)
        patch.setattr(dispatch, "_why_not_device", lambda _: None)
        explanation = tritonconv.explain(layer, image)
    features = torch.empty(32, 128, 28, 28).half().contiguous(memory_format=torch.channels_last)
    factors = dict(x=image, weight=layer.weight, y=features)
    calls = [call_of(choice.operator, choice.geometry, factors) for choice in explanation]
    assert [choice.operator for choice in explanation] == ["fprop", "dgrad", "wgrad"]
    assert [choice.tile for choice in explanation] == [planned(call, gpu=gpu).tile for call in calls]
    assert all(choice.tile.uses_tma and choice.measured is False for choice in explanation)
    assert str(explanation).count("[1] unmeasured: a model chose the tile") == 1
    assert str(explanation.__class__(explanation[:1])).splitlines()[0].endswith(f"{explanation[0].tile}  [1]")


def test_explain_a_model_that_differentiates() -> None:
    class Force(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = tritonconv.Conv2d(4, 6, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                image = image.requires_grad_()
                energy = self.energy(image).pow(2).sum()
                return torch.autograd.grad(energy, (image, self.energy.weight, self.energy.bias))[0]

    with tritonconv.using("reference"):
        explanation = tritonconv.explain(Force(), x.clone())
    assert {choice.operator for choice in explanation} == {"fprop", "dgrad", "wgrad"}
