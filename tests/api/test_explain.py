"""`tritonconv.explain` returns what runs, with which tile and why, and prints it as a table with a legend."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import tritonconv
from tests.support.plans import call_of, planned
from tritonconv import dispatch, runtime
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Gpu
from tritonconv.tiling.tile import Tile
from tritonconv.tools.explanation import Choice, Explanation

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
    assert str(explanation).splitlines()[:13] == [
        "Which implementation runs each convolution.",
        "The rows of gradients say what backward would run, if it needed them.",
        "",
        "layer  pass             operator  implementation  notes",
        "-----  ---------------  --------  --------------  -----",
        "0      forward          fprop     reference       [1]",
        "0      input gradient   dgrad     reference       [1]",
        "0      weight gradient  wgrad     reference       [1]",
        "2.0    forward          dgrad     reference       [1]",
        "2.0    input gradient   fprop     reference       [1]",
        "2.0    weight gradient  wgrad     reference       [1]",
        "",
        "notes",
    ]
    because = "because the kernels compute in float16, bfloat16 or float32, not in float64."
    assert str(explanation).count(f"  [1]  Triton does not run this, {because}\n") == 1
    assert "tile" not in str(explanation)
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_nothing_to_explain() -> None:
    explanation = tritonconv.explain(torch.nn.ReLU(), x)
    assert list(explanation) == []
    assert str(explanation).startswith("There is nothing to explain, because no layer or function of tritonconv")


def test_explain_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles are those that a launch on the GPU would choose. They are unmeasured if no GPU like it has a table."""
    pytest.importorskip("triton")
    layer = tritonconv.Conv2d(64, 128, 3, padding=1).half().to(memory_format=torch.channels_last)
    image = torch.randn(32, 64, 28, 28).half().contiguous(memory_format=torch.channels_last)
    gpu = Gpu.of("sm_90", 100, "a GPU without a table")
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
    table, _, legend = str(explanation).partition("\n\noperator\n")
    assert [line.split()[-2:] for line in table.splitlines()[5:]] == [
        [str(choice.tile), "unmeasured"] for choice in explanation
    ]
    assert legend.count("  unmeasured  chosen by the cost model, or the smallest tile") == 1
    assert "notes" not in str(explanation)


@pytest.mark.parametrize(("name", "choice"), [("NVIDIA H200", "measured"), ("NVIDIA H100", "measured on NVIDIA H200")])
def test_explain_whose_table_a_tile_is_from(name: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package has a table of an H200, with this layer. An H100 is like it."""
    pytest.importorskip("triton")
    monkeypatch.setattr(runtime, "gpu_of", lambda _: Gpu.of("sm_90", 132, name))
    monkeypatch.setattr(dispatch, "_why_not_device", lambda _: None)
    about: dict[str, Any] = dict(dtype=torch.bfloat16, device="meta")
    layer = tritonconv.Conv2d(128, 128, 3, padding=1, **about).to(memory_format=torch.channels_last)
    image = torch.empty(128, 128, 28, 28, **about).contiguous(memory_format=torch.channels_last)
    explanation = tritonconv.explain(layer, image)
    assert {(row.measured, row.measured_on, row.gpu) for row in explanation} == {(True, "NVIDIA H200", name)}
    assert [row.tile_choice for row in explanation] == [choice] * 3


def rows(*tiles: tuple[Operator, Tile | None, bool | None]) -> Explanation:
    """Return an explanation with a row for each (operator, tile, whether the tile was measured).

    If the tile is None, the reference runs the operator.
    """
    geometry = ConvGeometry(2, 4, 8, 8, 6, 6, 6, 3, 3)
    return Explanation(
        Choice("layer", "forward", operator, "triton" if tile else "reference", {}, geometry, tile, measured)
        for operator, tile, measured in tiles
    )


GATHERS = Tile(64, 128, 32, num_warps=8, num_stages=3)
COPIES = Tile(128, 64, 64, num_warps=4, num_stages=2, SPLIT_K=29, BLOCK_B=1, BLOCK_H=8, BLOCK_W=8)


def test_the_legend_explains_what_occurs() -> None:
    """Each part of a tile's name is explained with the numbers of the first tile that has it."""
    assert str(rows(("fprop", GATHERS, True), ("wgrad", COPIES, False), ("wgrad", None, None))) == (
        """\
Which implementation runs each convolution.
The rows of gradients say what backward would run, if it needed them.

layer  pass     operator  implementation  tile                    tile choice  notes
-----  -------  --------  --------------  ----------------------  -----------  -----
layer  forward  fprop     triton          64x128x32w8s3           measured
layer  forward  wgrad     triton          128x64x64w4s2:1.8.8/29  unmeasured
layer  forward  wgrad     reference                                            [1]

notes
  [1]  The call, its layer, tritonconv.using or TRITONCONV_IMPLEMENTATION asks for the reference.

operator
  fprop  image and weight -> features: Conv2d forward, and the input gradient of ConvTranspose2d
  wgrad  image and features -> weight: the weight gradient of both

implementation
  triton     fused Triton kernels
  reference  plain PyTorch, as in tritonconv.reference

tile, the block sizes of one program
  64x128x32  BLOCK_M x BLOCK_N x BLOCK_K: 64 x 128 results, to each of which a step adds 32 products
  w8         num_warps: warps of the program
  s3         num_stages: software pipelining stages
  :1.8.8     pixel block shape: TMA copies blocks of 1 x 8 x 8 (images, rows, columns)
  no ":"     gather: the program computes the address of each pixel, and does not use TMA
  /29        split-K: 29 programs share each sum, and another kernel adds their partial sums

tile choice
  measured    this tile was the fastest in measurements of such a layer on this GPU
  unmeasured  chosen by the cost model, or the smallest tile because the chosen one did not fit on this GPU"""
    )


def test_the_legend_says_which_gpu_was_measured() -> None:
    """Tiles of this GPU and of others like it can stand in one table."""
    (row,) = rows(("fprop", GATHERS, True))
    others = [replace(row, measured_on=name, gpu="B") for name in ("C", "B", "A")]
    legend = str(Explanation(others)).partition("tile choice\n")[2]
    assert legend.partition("tile choice\n")[2].splitlines() == [
        "  measured on C  this tile was the fastest in measurements of such a layer on C, a GPU like this one",
        "  measured on A  this tile was the fastest in measurements of such a layer on A, a GPU like this one",
        "  measured       this tile was the fastest in measurements of such a layer on this GPU",
    ]


def test_the_legend_explains_nothing_else() -> None:
    legend = str(rows(("fprop", GATHERS, None))).partition("operator\n")[2]
    assert "interpreter  small, for Triton's interpreter" in legend
    for absent in ("dgrad", "reference", "TMA copies", "split-K", "measured"):
        assert absent not in legend
    assert "gather" not in str(rows(("wgrad", COPIES, True)))


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
