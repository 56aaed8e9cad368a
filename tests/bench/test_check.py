"""The benchmark's check of results: it expects what torch computes in float64, and a wrong result shows no time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import test_throughput
from bench.layers import Layer, read, select
from bench.run import check, measure
from bench.run.contenders import CONTENDERS, PASSES, Pass, Problem, computation
from tests.bench.made_up import CEILINGS
from tests.support.cases import Case
from tests.support.oracle import expected_step
from tritonconv.tools.tolerance import errors

CPU = torch.device("cpu")


LAYERS = [layer.scaled_down() for layer in read()]


ENVIRONMENT = {"kernels": {"fprop": "f", "dgrad": "d", "wgrad": "w"}, "commit": "c"}


# Weights that vary, with more than one group and filter, and sampling that differs between rows and columns.
ODD = Case("odd", 3, (4, 6), (7, 6), (2, 3), (2, 1), (1, 2), (2, 1), 2, bias=False)
VARYING = [
    Layer(each, each.name_of_function, "none")
    for varies in ("b", "p q", "b p q")
    for each in [replace(ODD, name=f"odd {varies}", varies=varies)]
]


@pytest.mark.parametrize("layer", [*LAYERS, *VARYING], ids=lambda layer: layer.name)
def test_expected_is_what_torch_computes_in_float64(layer: Layer) -> None:
    problem = Problem.draw(layer, "float32", CPU)
    results = expected_step(layer.case, (problem.input, problem.weight, None), problem.gradient)
    with_bias, *_ = expected_step(layer.case, (problem.input, problem.weight, problem.bias), problem.gradient)
    samples = [*check.samples("step", problem), *check.samples("forward", problem)]
    for result, sample in zip([*results, with_bias], samples, strict=True):
        assert max(sample.errors(result)) < 1e-12
        assert sample.expected.numel() > 0


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
@pytest.mark.parametrize(
    "name",
    ["rn50_c3_3x3", "local_3x3_64_at_14", "condconv_effb0_1x1_112_to_672_at_14", "kpn_5x5_8_to_1_at_128"],
)
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


@pytest.mark.parametrize("layer", VARYING, ids=lambda layer: layer.name)
def test_samples_of_weights_that_vary(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few positions and taps, drawn at random, are where the sample says that they are in the whole result."""
    monkeypatch.setattr(check, "POSITIONS", 20)
    monkeypatch.setattr(check, "FILTERS", 5)
    problem = Problem.draw(layer, "float32", CPU)
    results = expected_step(layer.case, (problem.input, problem.weight, None), problem.gradient)
    for seed in (0, 1):
        for result, sample in zip(results, check.samples("step", problem, seed), strict=True):
            assert max(sample.errors(result)) < 1e-12
            assert sample.expected.numel() < result.numel()


def test_rows_of_samples_in_any_order() -> None:
    b = torch.tensor([1, 0, 1, 2, 0])
    rows = check.for_each_sample(b, lambda sample, at: 10 * at + sample)
    assert rows.tolist() == [1, 10, 21, 32, 40]


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
