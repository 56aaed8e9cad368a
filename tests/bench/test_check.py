"""The benchmark's check of results: it expects what torch computes in float64, and a wrong result shows no time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bench import test_throughput
from bench.layers import Layer, read, select
from bench.run import check, measure
from bench.run.contenders import (
    CONTENDERS,
    PASSES,
    Pass,
    Problem,
    at_its_best,
    competing,
    computation,
    operators_of,
    refusal,
)
from tests.bench.made_up import CEILINGS
from tests.support.cases import Case
from tests.support.oracle import expected_step
from tritonconv import LocallyConnected2d, runtime
from tritonconv.call import Call
from tritonconv.gpu import Gpu
from tritonconv.tools.explain import Listener
from tritonconv.tools.tolerance import errors

CPU = torch.device("cpu")


LAYERS = [layer.scaled_down() for layer in read()]


LOCAL = [layer for layer in LAYERS if layer.family == "local"]


ENVIRONMENT = {"kernels": {"fprop": "f", "dgrad": "d", "wgrad": "w"}, "commit": "c"}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_expected_is_what_torch_computes_in_float64(layer: Layer) -> None:
    problem = Problem.draw(layer, "float32", CPU)
    results = expected_step(layer.case, (problem.input, problem.weight, None), problem.gradient)
    with_bias, *_ = expected_step(layer.case, (problem.input, problem.weight, problem.bias), problem.gradient)
    samples = [*check.samples("step", problem), *check.samples("forward", problem)]
    for result, sample in zip([*results, with_bias], samples, strict=True):
        assert max(sample.errors(result)) < 1e-12
        assert sample.expected.numel() > 0


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("contender", ["torch", "torch-nchw", "reference"])
def test_contenders_compute_the_same(contender: str, of: Pass) -> None:
    for layer in select("rn50_c3_3x3_s2,unet_up1,resnext50_32x4d_c2_g32,fsrcnn_deconv_9x9_s3"):
        problem = Problem.draw(layer.scaled_down(), "float32", CPU)
        assert refusal(contender, of, problem) is None
        results = computation(contender, of, problem)()
        assert len(results) == len(operators_of(of, layer)) == len(check.samples(of, problem))
        check.assert_right(of, problem, results, check.samples(of, problem))


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("contender", ["reference", "loop"])
def test_contenders_compute_the_same_in_local_layers(contender: str, of: Pass) -> None:
    for layer in LOCAL:
        problem = Problem.draw(layer, "float32", CPU)
        assert refusal(contender, of, problem) is None
        results = computation(contender, of, problem)()
        check.assert_right(of, problem, results, check.samples(of, problem))


def test_a_loop_knows_padding_dilation_and_groups() -> None:
    case = Case("local", 2, (4, 6), (5, 4), (2, 3), 2, 1, (2, 1), 2, bias=False, varies="p q")
    for each in (case, replace(case, transposed=True, size=(2, 3))):
        problem = Problem.draw(Layer(each, each.name_of_function, "none"), "float32", CPU)
        for of in PASSES:
            check.assert_right(of, problem, computation("loop", of, problem)(), check.samples(of, problem))


def test_who_competes_in_local_layers() -> None:
    """If torch is asked for, the reference and a loop compete too. Otherwise only those that are asked for."""
    assert competing(["torch", "triton"], LOCAL[0]) == ["torch", "triton", "reference", "loop"]
    assert competing(["torch", "triton"], LAYERS[0]) == ["torch", "triton"]
    assert competing(["triton"], LOCAL[0]) == ["triton"]
    local, dense = (Problem.draw(layer, "float32", CPU) for layer in (LOCAL[0], LAYERS[0]))
    refuse = {name for name in CONTENDERS for of in PASSES if refusal(name, of, local)} - {"triton", "triton-nchw"}
    assert refuse == {"torch", "torch-nchw", "compile", "flag_gems"}
    assert refusal("loop", "fprop", dense) == "a loop over positions is for locally connected layers"


def test_the_fused_local_layers_compete_in_both_formats(device: str) -> None:
    """In both formats, the weight has the layout that its layer keeps, and is not copied."""
    problem = Problem.draw(LOCAL[-1], "float32", torch.device(device))
    assert problem.contiguous().weight is problem.weight
    assert problem.weight.stride() == LocallyConnected2d(32, 32, 3, 4, device="meta").weight.stride()
    for contender, channels_last in (("triton", True), ("triton-nchw", False)):
        (result,) = computation(contender, "fprop", problem)()
        check.assert_right("fprop", problem, [result], check.samples("fprop", problem))
        assert result.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_the_fused_layers_compete_in_both_formats(device: str) -> None:
    """The fused layers run on the GPU, or in Triton's interpreter on a problem of a few steps."""
    (layer,) = select("rn50_c5_1x1_s2_down")
    problem = Problem.draw(layer.scaled_down(), "float32", torch.device(device))
    for contender, channels_last in (("triton", True), ("triton-nchw", False)):
        heard: list[Call] = []
        with Listener(heard.append):
            (result,) = computation(contender, "fprop", problem)()
        assert [(call.name, call.settings.implementation) for call in heard] == [("fprop", "triton")]
        assert result.is_contiguous(memory_format=torch.channels_last) == channels_last
        (row,) = measure.measure(problem, "fprop", [contender], CEILINGS, ENVIRONMENT)
        assert (row["status"], row["kernels"]) == ("ok", {"fprop": "f"})
        assert list(row["tile"]) == ["fprop"]
        assert row["tuned"] == {"fprop": False} or device == "cuda"


def test_tuned_tiles_are_those_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of an H200 has this layer at batch 128. At batch 1 there is no row, so the cost model chooses."""
    (layer,) = select("rn50_c3_3x3")
    monkeypatch.setattr(runtime, "gpu_of", lambda device: Gpu.of("sm_90", 132, "NVIDIA H200"))
    for batch, tuned in ((128, True), (1, False)):
        plans = measure.plans_of(layer.at_batch(batch), "step", "bfloat16", CPU)
        assert {operator: measure.is_measured(plan) for operator, plan in plans.items()} == dict.fromkeys(
            ("fprop", "dgrad", "wgrad"), tuned
        )


def test_formats_and_switches() -> None:
    """Operands are channels_last, or NCHW for contenders of that name. cuDNN tries everything. "tf32" allows TF32."""
    problem = Problem.draw(LAYERS[2], "float32", CPU)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (problem.x, problem.weight, problem.y))
    assert all(t.is_contiguous() for t in (problem.contiguous().x, problem.contiguous().weight, problem.contiguous().y))
    (nchw,) = computation("torch-nchw", "fprop", problem)()
    assert nchw.is_contiguous()
    before = torch.backends.cudnn.benchmark
    for dtype, precision in (("bfloat16", "ieee"), ("float32", "ieee"), ("tf32", "tf32")):
        with at_its_best(dtype):
            assert torch.backends.cudnn.benchmark
            assert torch.backends.cudnn.benchmark_limit in (0, None)
            assert torch.backends.cudnn.conv.fp32_precision == precision
            assert torch.backends.cuda.matmul.fp32_precision == precision
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.filterwarnings("ignore")  # torch.compile warns
def test_compile_compiles_every_layer() -> None:
    """Each layer is compiled, also if there are more layers than torch keeps versions of one function."""
    for layer in LAYERS[:10]:
        problem = Problem.draw(layer, "float32", CPU)
        before = counters["stats"]["unique_graphs"]
        (result,) = computation("compile", "fprop", problem)()
        assert counters["stats"]["unique_graphs"] == before + 1
        check.assert_right("fprop", problem, [result], check.samples("fprop", problem), measure.LOOSER)


def test_a_contender_that_fails_to_be_timed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = measure.side_by_side

    def side_by_side(calls: dict[str, Any], *rest: Any) -> Any:
        if "reference" in calls:
            raise RuntimeError("CUDA out of memory\nand much more")
        return plain(calls, *rest)

    monkeypatch.setattr(measure, "side_by_side", side_by_side)
    problem = Problem.draw(LAYERS[2], "float32", CPU)
    good, bad = measure.measure(problem, "fprop", ["torch", "reference"], CEILINGS, ENVIRONMENT)
    assert good["wall_us"]["median"] > 0
    assert (bad["status"], bad["reason"]) == ("failed", "CUDA out of memory")


def test_what_the_timed_replay_leaves_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = measure.side_by_side

    def side_by_side(calls: dict[str, Any], *rest: Any) -> Any:
        times = plain(calls, *rest)
        times["torch"].results = [result * 2 for result in calls["torch"]()]
        return times

    monkeypatch.setattr(measure, "side_by_side", side_by_side)
    problem = Problem.draw(LAYERS[2], "float32", CPU)
    bad, good = measure.measure(problem, "fprop", ["torch", "reference"], CEILINGS, ENVIRONMENT)
    assert (bad["status"], good["status"]) == ("wrong", "ok")
    assert "tflops" not in bad


def test_a_lost_gpu_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "lost", lambda device: True)
    problem = Problem.draw(LAYERS[2], "float32", CPU)
    with pytest.raises(ValueError, match="contenders are"):
        measure.measure(problem, "fprop", ["nonsense"], CEILINGS, ENVIRONMENT)


@pytest.mark.parametrize("of", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("name", ["rn50_c3_3x3", "local_3x3_64_at_14"])
def test_one_wrong_element_is_found(name: str, of: Pass, where: str) -> None:
    """The first and the last element are always checked, however many positions there are."""
    (layer,) = select(name)
    problem = Problem.draw(layer.scaled_down(), "float32", CPU)
    (result,) = computation("reference", of, problem)()
    samples = check.samples(of, problem)
    check.assert_right(of, problem, [result], samples)
    flat = result.clone(memory_format=torch.contiguous_format).view(-1)
    flat[0 if where == "first" else -1] += 0.01
    with pytest.raises(check.WrongResult, match=name):
        check.assert_right(of, problem, [flat.view(result.shape)], samples)


def test_large_results_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "POSITIONS", 16)
    problem = Problem.draw(LAYERS[4], "float32", CPU)
    (sample,) = check.samples("fprop", problem)
    b, _, p, q = sample.at
    assert isinstance(b, Tensor)
    assert 10 <= len(b) <= 16
    places = list(zip(b.tolist(), p.tolist(), q.tolist(), strict=True))
    geometry = problem.geometry
    assert {(0, 0, 0), (geometry.B - 1, geometry.P - 1, geometry.Q - 1)} < set(places)


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("spoil", [lambda t: t * float("nan"), lambda t: t * 1.001, lambda t: t.roll(1, -1)])
def test_a_wrong_result_shows_no_speed(
    of: Pass, spoil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = computation

    def wrong(contender: str, of: Pass, problem: Problem) -> Any:
        compute = right(contender, of, problem)
        return compute if contender == "torch" else lambda: tuple(spoil(t) for t in compute())

    monkeypatch.setattr(measure, "computation", wrong)
    problem = Problem.draw(LAYERS[2], "float32", CPU)
    good, bad = measure.measure(problem, of, ["torch", "reference"], CEILINGS, ENVIRONMENT)
    assert good["status"] == "ok"
    assert {"wall_us", "tflops", "roof", "gbps", "extra_bytes"} <= set(good)
    assert good["peak"] >= 1
    assert bad["status"] == "wrong"
    assert "is off by" in bad["reason"]
    assert not {"wall_us", "device_us", "tflops", "roof", "gbps"} & set(bad)


def test_a_wrong_result_fails_the_benchmark() -> None:
    class Wrong:
        def measure(self, *_: Any) -> list[dict[str, Any]]:
            return [{"contender": "triton", "status": "wrong", "reason": "off by one"}]

    with pytest.raises(AssertionError, match="off by one"):
        test_throughput.test_throughput(None, Wrong(), LAYERS[0], "fprop", "triton", "float32")  # type: ignore[arg-type]


def test_what_raises_or_refuses_is_a_row() -> None:
    problem = Problem.draw(LAYERS[0], "float32", CPU)
    refused, raised = measure.measure(problem, "dgrad", ["flag_gems", "nonsense"], CEILINGS, ENVIRONMENT)
    assert (refused["status"], refused["reason"]) == ("skipped", "flag_gems is not installed")
    assert (raised["status"], raised["reason"]) == ("failed", f"contenders are {', '.join(CONTENDERS)}, not nonsense")


def test_errors_are_those_of_the_oracle() -> None:
    problem = Problem.draw(LAYERS[0], "float32", CPU)
    (result,) = computation("torch", "fprop", problem)()
    (sample,) = check.samples("fprop", problem)
    rms, most = check.assert_right("fprop", problem, [result], [sample])
    assert (rms, most) == errors(result[sample.at], sample.expected)
    assert 0 < rms < most < 1e-5
