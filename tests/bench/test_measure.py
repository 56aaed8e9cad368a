"""What a row of `bench.run.measure` says beside the times."""

import pytest
import torch

from bench.layers import select
from bench.run import measure
from tritonconv import runtime
from tritonconv.gpu import Gpu

CPU = torch.device("cpu")


def test_tuned_tiles_are_those_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of an H200 has this layer at batch 128. At batch 1 there is no row, so the cost model chooses."""
    (layer,) = select("rn50_c3_3x3")
    monkeypatch.setattr(runtime, "gpu_of", lambda device: Gpu.of("sm_90", 132, "NVIDIA H200"))
    for batch, tuned in ((128, True), (1, False)):
        plans = measure.plans_of(layer.at_batch(batch), "step", "bfloat16", CPU)
        found = {operator: measure.is_measured(plan) for operator, plan in plans.items()}
        assert found == dict.fromkeys(("fprop", "dgrad", "wgrad"), tuned)


def test_tiles_may_be_from_the_table_of_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    (layer,) = select("rn50_c3_3x3")
    for name, elsewhere in (("NVIDIA H200", []), ("NVIDIA H100", ["NVIDIA H200"]), ("", [])):
        monkeypatch.setattr(runtime, "gpu_of", lambda device, name=name: Gpu.of("sm_90", 132, name))
        plans = measure.plans_of(layer, "step", "bfloat16", CPU)
        assert measure.measured_elsewhere(plans.values()) == elsewhere


def test_held_out_layers_are_marked() -> None:
    usual, held_out = select("rn50_c3_3x3")[0], select("held-out")[0]
    assert measure.about(held_out, "fprop", "torch", "bfloat16")["held_out"] is True
    assert "held_out" not in measure.about(usual, "fprop", "torch", "bfloat16")
