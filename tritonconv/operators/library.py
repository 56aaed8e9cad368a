"""The declarations of the operators for torch: the schema, fake-tensor implementation and FLOP count of each.

There are four operators: fprop, dgrad, wgrad and `wgrad_with_bias`. `wgrad_with_bias` is wgrad, and also sums the
features over samples and positions while it reads them. That sum is the gradient of fprop's bias.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from tritonconv.call import ADD_BIAS, OPERATOR_NAMES, OPERATOR_OF, Call, geometry_of, split_arguments
from tritonconv.geometry import TAKES
from tritonconv.launch.layout import allocate_results
from tritonconv.settings import Sizes

SCHEMA_OF_SETTINGS = "SymInt height, SymInt width, SymInt pad_h, SymInt pad_w, SymInt groups, str settings"

library = torch.library.Library("tritonconv", "DEF")
torch_operators = torch.ops.tritonconv


def schema(name: str) -> str:
    """Return the schema of the operator `name`, as in "fprop(Tensor x, Tensor weight, Tensor? bias, ...) -> Tensor"."""
    factors = ", ".join(f"Tensor {factor}" for factor in TAKES[OPERATOR_OF[name]])
    bias = "Tensor? bias, " if name in ADD_BIAS else ""
    results = "(Tensor, Tensor)" if name == "wgrad_with_bias" else "Tensor"
    return f"{name}({factors}, {bias}{SCHEMA_OF_SETTINGS}) -> {results}"


def fake_implementation(name: str) -> Callable[..., Any]:
    """Return the fake-tensor implementation of the operator `name`.

    It allocates results of the right shape, dtype and strides, and computes nothing.
    """

    def fake(*arguments: Any) -> Any:
        call = Call(name, arguments)
        results = allocate_results(call, call.factors[0])
        return results if call.finds_bias else results[0]

    return fake


def flops_of(name: str) -> Callable[..., int]:
    """Return the FLOP formula of the operator `name` for `torch.utils.flop_counter`.

    The formula is called with shapes in place of tensors, and counts what torch counts for its own convolutions. For
    wgrad with G groups, that is G times too many.
    """
    operator = OPERATOR_OF[name]

    def flops(*arguments: Any, out_shape: Any = None, **_: Any) -> int:
        (first, second, *_bias), settings = split_arguments(name, arguments)
        geometry = geometry_of(operator, first, second, settings)
        shapes: tuple[Sizes, ...] = (geometry.image_shape, geometry.feature_shape, geometry.weight_shape[-4:])
        x, y, weight = map(list, shapes)
        match operator:
            case "fprop":
                count = conv_flop_count(x, weight, y)
            case "dgrad":
                count = conv_flop_count(y, weight, x, transposed=True)
            case "wgrad":
                # torch counts wgrad as a convolution of the images with the features. With groups it counts every pair
                # of channels, which is G times too many.
                count = conv_flop_count(*([t[1], t[0], *t[2:]] for t in (x, y, weight)))  # type: ignore[arg-type]
        return int(count)

    return flops


for _name in OPERATOR_NAMES:
    library.define(schema(_name))
    torch.library.register_fake(f"tritonconv::{_name}", fake_implementation(_name), lib=library)
    register_flop_formula(getattr(torch_operators, _name))(flops_of(_name))
