"""Which contenders compete in a layer, and why others do not."""

from dataclasses import replace

import pytest
import torch

from bench.layers import Layer, read
from bench.run.contenders import CONTENDERS, PASSES, Problem, competing, refusal

LAYERS = {layer.name: layer.scaled_down() for layer in read()}
OF_FAMILY = {layer.family: layer for layer in LAYERS.values()}
FAMILIES_THAT_VARY = ("local", "per sample", "dynamic")


def problem_of(layer: Layer) -> Problem:
    return Problem.draw(layer, "float32", torch.device("cpu"))


def test_who_competes_if_the_weight_varies() -> None:
    """If torch is asked for, those compete that users write instead. Otherwise only those that are asked for."""
    asked = ["torch", "triton"]
    assert competing(asked, OF_FAMILY["local"]) == [*asked, "reference", "unfold-compile", "grouped", "loop"]
    assert competing(asked, OF_FAMILY["per sample"]) == [*asked, "reference", "unfold-compile", "grouped"]
    assert competing(asked, OF_FAMILY["dynamic"]) == [*asked, "reference", "unfold-compile"]
    assert competing(asked, OF_FAMILY["dense 3x3"]) == asked
    for family in FAMILIES_THAT_VARY:
        assert competing(["triton", "triton"], OF_FAMILY[family]) == ["triton"]


def test_a_small_run_compiles_only_if_asked() -> None:
    small = competing(["torch"], OF_FAMILY["per sample"], small=True)
    assert small == ["torch", "reference", "grouped"]
    assert competing(["unfold-compile", "torch"], OF_FAMILY["dynamic"], small=True) == [
        "unfold-compile",
        "torch",
        "reference",
    ]


@pytest.mark.parametrize(
    ("family", "refuse"),
    [
        ("local", {"torch", "torch-nchw", "compile", "flag_gems"}),
        ("per sample", {"torch", "torch-nchw", "compile", "flag_gems", "loop"}),
        ("dynamic", {"torch", "torch-nchw", "compile", "flag_gems", "loop", "grouped"}),
        ("dense 3x3", {"unfold-compile", "grouped", "loop", "flag_gems"}),
    ],
)
def test_who_refuses_a_layer(family: str, refuse: set[str]) -> None:
    """Each says why. FlagGems is not installed."""
    problem = problem_of(OF_FAMILY[family])
    reasons = {name: refusal(name, "wgrad", problem) for name in CONTENDERS if not name.startswith("triton")}
    assert {name for name, reason in reasons.items() if reason} == refuse


def test_what_torch_has_not() -> None:
    said = {refusal("torch", "fprop", problem_of(OF_FAMILY[family])) for family in FAMILIES_THAT_VARY}
    assert said == {
        "torch has no locally connected layer",
        "torch has no layer with a weight for each sample",
        "torch has no layer with a weight for each sample and location",
    }
    assert "one position" in str(refusal("grouped", "fprop", problem_of(OF_FAMILY["dynamic"])))


def test_a_cpu_does_not_run_what_is_compiled_wrongly() -> None:
    """Those are the passes with dgrad. A GPU runs them."""
    name = "local_3x3_64_at_14"
    for layer, refused in ((LAYERS[name], ("dgrad", "step")), (OF_FAMILY["local"], ("dgrad", "forward", "step"))):
        problem = problem_of(layer)
        assert tuple(of for of in PASSES if refusal("unfold-compile", of, problem)) == refused
        elsewhere = replace(problem, x=problem.x.to("meta"))
        assert not [of for of in PASSES if refusal("unfold-compile", of, elsewhere)]
