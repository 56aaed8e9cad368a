"""`python -m bench lowering --layers` with layers of one's own."""

import argparse
from typing import Any

import pytest

pytest.importorskip("triton")

from bench.lowering import command, offline, own
from bench.own_layer import EXAMPLE, own_layer

SECOND = "LocallyConnected2d(16, 16, 3) at 128x16x12x12 tf32"


def stub(job: offline.Job) -> dict[str, Any]:
    """Return a row of a job as it would be if every kernel had 100 registers."""
    return {
        **dict(kernel=job.kernel, tile=str(job.tile), dtype=job.dtype, arch=job.arch),
        **dict(x_vector=job.memory.x, y_vector=job.memory.y, registers=100, spill_bytes=0, shared_bytes=1),
        **dict(shared_bytes_promised=2, occupancy=0.5, mma="HGMMA", copy="UTMALDG", instructions_per_step=90),
        **dict(instructions_per_mma_cycle=1, ffma_share=None, bound_tflops=900, triton="0"),
    }


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Run the command with kernels that are not really compiled."""

    def lower_all(jobs: Any, chosen: Any, *_: Any) -> Any:
        return (stub(job) | {"default": True, "layers": chosen[job]} for job in jobs)

    monkeypatch.setattr(command, "lower_all", lower_all)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([*options]))


def test_each_operator_of_an_own_layer_has_its_tile_and_its_kernels_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--layers", EXAMPLE, SECOND) == 0
    legend, first, second = capsys.readouterr().out.partition(f"\n{EXAMPLE}: bfloat16 on sm_90\n")
    assert "Nothing here was measured" in legend
    first, _, second = second.partition(f"\n{SECOND}: tf32 on sm_90\n")
    for text, layer in ((first, EXAMPLE), (second, SECOND)):
        geometry, dtype = own_layer(layer)[0].geometry, own_layer(layer)[1]
        for kernel in offline.kernels_for(geometry):
            gpu = offline.gpu_of_data_sheet("sm_90")
            plan = offline.plan_for(offline.operator_of(kernel), dtype, geometry, gpu, bias="bias" in kernel)
            assert f"\n{kernel} " in text
            assert f" {plan.tile}" in text
    assert "\nfprop_local " not in first
    assert "limit" in first


def test_kernels_of_an_own_layer_are_its_plans() -> None:
    layer, dtype = own_layer(EXAMPLE)
    jobs = own.own_jobs([(layer, dtype)], ["sm_90", "sm_80"], offline.KERNELS, False)
    assert {job.dtype for job in jobs} == {"bfloat16"}
    for arch in ("sm_90", "sm_80"):
        assert [job for job in jobs if job.arch == arch] == list(offline.picked_jobs([layer], dtype, arch))
    assert set(map(tuple, jobs.values())) == {(EXAMPLE,)}
    (only,) = own.own_jobs([(layer, dtype)], ["sm_90"], ["dgrad"], False)
    assert only.kernel == "dgrad"


def test_layers_that_share_a_kernel_are_named_in_its_row() -> None:
    twice = [own_layer(EXAMPLE), own_layer(EXAMPLE.replace("bf16", "bfloat16"))]
    jobs = own.own_jobs(twice, ["sm_90"], ["fprop"], False)
    assert list(jobs.values()) == [[twice[0][0].name, twice[1][0].name]]


@pytest.mark.parametrize("useless", [["--all"], ["--tile", "64x64x32w8s2"], ["--dtype", "tf32"], ["--grid"]])
def test_options_that_an_own_layer_leaves_no_choice_for_are_refused(
    useless: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"leave out {useless[0]}"):
        run(monkeypatch, "--layers", EXAMPLE, *useless)


def test_a_text_that_is_no_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is no layer: "):
        run(monkeypatch, "--layers", "conv2d")
