"""The operators with weights that vary: adjoints, NaN and infinity, biases, FLOPs, `explain` and `warmup`."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tritonconv
from tests.support.local_layers import ARGUMENTS, SIZE
from tests.support.oracle import assert_close
from tritonconv import reference
from tritonconv.settings import Settings

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_reference")]


@pytest.mark.parametrize("arguments", ARGUMENTS[:2], ids=range(2))
def test_adjoint(arguments: dict[str, Any]) -> None:
    """<local(x), y> = <x, transposed(y)>, for the same weight."""
    sampling = {name: value for name, value in arguments.items() if name != "kernel_size"}
    kernel = arguments["kernel_size"] if isinstance(arguments["kernel_size"], tuple) else (3, 3)
    G = sampling.get("groups", 1)
    x = torch.randn(2, 4, *SIZE, dtype=torch.float64)
    P, Q = torch.conv2d(x, torch.zeros(6, 4 // G, *kernel, dtype=torch.float64), **sampling).shape[2:]
    weight, y = (torch.randn(shape, dtype=torch.float64) for shape in ((P, Q, 6, 4 // G, *kernel), (2, 6, P, Q)))
    size = torch.conv_transpose2d(y, weight[0, 0], **sampling).shape[2:]
    extra = [n - m for n, m in zip(SIZE, size, strict=True)]
    for package in (reference, tritonconv):
        forward = package.locally_connected2d(x, weight, **sampling)
        back = package.locally_connected_transpose2d(y, weight, output_padding=extra, **sampling)
        terms = forward * y
        assert_close(terms.sum(), (x * back).sum(), "float64", scale=terms.norm().item())


@pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("batch", [2, 10])
def test_what_is_not_finite_in_a_weight_stays_at_its_location(batch: int, device: str) -> None:
    """NaN and infinity in a weight reach the same results as in the reference, and no other location.

    In the forward pass that includes a tap outside the image: NaN times a padded zero is NaN.
    """
    weight = torch.ones(2, 3, 4, 3, 2, 2, device=device)
    weight[0, 0, 1, 2, 0, 0], weight[1, 2, 3, 0, 1, 1], weight[1, 0, 0, 0, 1, 0] = torch.nan, torch.inf, torch.nan
    x, y = torch.ones(batch, 3, 1, 4, device=device), torch.ones(batch, 4, 2, 3, device=device)
    for name, input in (("locally_connected2d", x), ("locally_connected_transpose2d", y)):
        sampling = dict(stride=(1, 2), padding=(1, 1) if input is x else 0)
        actual = getattr(tritonconv, name)(input, weight, **sampling, implementation="triton")
        expected = getattr(reference, name)(input.double(), weight.double(), **sampling)
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual.isposinf(), expected.isposinf())
        assert 0 < (~actual.isfinite()).sum() < actual.numel() / 2


@pytest.mark.parametrize("varies", ["b", "p q", "b p q"])
def test_no_bias_is_summed_on_the_way_to_a_weight_that_varies(varies: str) -> None:
    settings = Settings((1, 1), (1, 1), (0, 0), (1, 1), 1, varies, False, "auto")
    with pytest.raises(ValueError, match="wgrad_with_bias is for a weight that does not vary"):
        torch.ops.tritonconv.wgrad_with_bias(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), *settings.packed)


@pytest.mark.parametrize(("varies", "bias"), [("b", (3, 4)), ("b p q", (3, 4)), ("b p q", (3, 4, 2, 3))])
def test_dgrad_adds_a_bias_of_each_sample(varies: str, bias: tuple[int, ...], device: str) -> None:
    """The operator accepts such a bias, though no public function passes one."""
    weight = torch.randint(-2, 3, (3, *((1, 2) if "p" in varies else ()), 5, 4, 2, 2), device=device).float()
    y, extra = (torch.randint(-2, 3, shape, device=device).float() for shape in ((3, 5, 1, 2), bias))
    results = [
        torch.ops.tritonconv.dgrad(
            y, weight, extra, *Settings((2, 3), (1, 1), (0, 0), (1, 1), 1, varies, False, implementation).packed
        )
        for implementation in ("triton", "reference")
    ]
    assert torch.equal(*results)


def test_flops_are_those_of_a_convolution() -> None:
    """Different filters at each location do not change the number of multiplications."""
    counts = []
    for layer in (nn.Conv2d(4, 6, 3, padding=1), tritonconv.LocallyConnected2d(4, 6, 3, SIZE, padding=1)):
        with FlopCounterMode(display=False) as counter:
            layer(torch.zeros(2, 4, *SIZE, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_explained_and_warmed_up(capsys: pytest.CaptureFixture[str]) -> None:
    layer = tritonconv.LocallyConnected2d(2, 3, 2, (2, 3), dtype=torch.float64)
    image = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    rows = tritonconv.explain(layer, image)
    assert [(row.operator, row.implementation, row.geometry.varies) for row in rows] == [
        ("fprop", "reference", "p q"),
        ("dgrad", "reference", "p q"),
        ("wgrad", "reference", "p q"),
    ]
    tritonconv.warmup(layer, image)
    assert "nothing to compile, because nothing runs in Triton" in capsys.readouterr().out
