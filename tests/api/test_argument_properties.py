"""For any sizes, the functions return torch's shape, dtype and strides, or raise the class of torch's error.

Strides of results without elements are not compared. torch's depend on which of its kernels returned early.
The operands are float64, for which all of torch's checks on a CPU are those of its own kernels.
"""

from typing import Any

import torch
from torch.nn import functional

import tritonconv
from tests.support.properties import given, settings, st
from tritonconv import reference

SMALL = st.integers(-1, 4)
SIZES = st.one_of(SMALL, st.tuples(SMALL, SMALL), st.lists(st.integers(0, 3), min_size=0, max_size=3), st.just(2**63))
# Mostly legal: hypothesis draws the wrong ones often enough.
EXTENTS = st.integers(0, 6)


@st.composite
def calls(draw: Any) -> tuple[str, list[torch.Tensor | None], dict[str, Any]]:
    """Return the name of a function, its operands and its keyword arguments. Shapes mostly fit together."""
    function = draw(st.sampled_from(["conv2d", "conv_transpose2d"]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 0, -1, 2**63]))
    factor = groups if 0 < groups < 4 else 1
    inner, outer = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    channels, filters = inner * factor, outer * factor
    if function == "conv2d":
        weight, results = [filters, inner], filters
    else:
        weight, results = [channels, outer], filters
    image = [channels, draw(EXTENTS), draw(EXTENTS)]
    if draw(st.booleans()):
        image.insert(0, draw(st.integers(0, 2)))
    weight += [draw(st.integers(0, 3)), draw(st.integers(0, 3))]
    spoilt = draw(st.sampled_from([None, None, None, None, image, weight]))
    if spoilt is not None:
        spoilt[draw(st.integers(0, len(spoilt) - 1))] = draw(st.integers(0, 4))
    bias = draw(st.sampled_from([None, (results,), (results,), (results + 1,), (1, results)]))
    names = ["stride", "padding", "dilation", *(["output_padding"] if function == "conv_transpose2d" else [])]
    arguments = {name: draw(SIZES) for name in names if draw(st.booleans())} | dict(groups=groups)
    if function == "conv2d" and draw(st.integers(0, 5)) == 0:
        arguments["padding"] = draw(st.sampled_from(["same", "valid", "SAME"]))
    operands = [None if shape is None else torch.ones(shape, dtype=torch.float64) for shape in (image, weight, bias)]
    return function, operands, arguments


def outcome(module: Any, function: str, operands: list[Any], arguments: dict[str, Any]) -> Any:
    try:
        result = getattr(module, function)(*operands, **arguments)
    except Exception as error:  # of any class, because the class is compared
        return type(error)
    return result.shape, result.dtype, result.stride() if result.numel() else ()


def torch_is_lenient(operands: list[Any]) -> bool:
    """Whether torch makes fewer checks: there are no images, or they have no channels. Then ours may refuse more."""
    return 0 in operands[0].shape[: operands[0].ndim - 2]


@settings(max_examples=300)
@given(calls())
def test_as_torch(drawn: tuple[str, list[Any], dict[str, Any]]) -> None:
    theirs = outcome(functional, *drawn)
    for ours in (reference, tritonconv):
        found = outcome(ours, *drawn)
        assert found == theirs or (found is RuntimeError and torch_is_lenient(drawn[1]))
