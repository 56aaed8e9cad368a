"""Problems for the kernels that copy whole blocks of pixels, with operands, tiles and what torch computes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from tests.support.cases import laid_out
from tests.support.guards import guarded
from tests.support.plans import call_of
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tiling.block_shapes import BlockShape, candidate_shapes, with_shape
from tritonconv.tiling.tile import Tile

# BLOCK_M, BLOCK_N and BLOCK_K: small enough for the interpreter, or large enough for a GPU.
IN_INTERPRETER, ON_GPU = 16, 64
LEAST = ON_GPU if torch.cuda.is_available() else IN_INTERPRETER


def problems(least: int) -> dict[str, ConvGeometry]:
    """Return problems by name. Some of their sizes follow from `least`, which the tiles have on each axis."""
    return {
        "plain": ConvGeometry(B=3, C=16, H=5, W=6, F=24, P=5, Q=6, R=3, S=3, pad_h=1, pad_w=1),
        "valid": ConvGeometry(B=2, C=24, H=5, W=7, F=8, P=4, Q=5, R=2, S=3),
        "groups": ConvGeometry(B=2, C=48, H=4, W=5, F=80, P=4, Q=5, R=1, S=2, G=2, pad_w=1),
        "dilated": ConvGeometry(B=2, C=8, H=7, W=6, F=16, P=5, Q=4, R=2, S=2, pad_w=1, dilation_h=2, dilation_w=4),
        "far_padding": ConvGeometry(B=1, C=8, H=3, W=2, F=8, P=9, Q=8, R=2, S=1, pad_h=4, pad_w=3),
        "stride_2": ConvGeometry(
            B=2, C=16, H=7, W=8, F=16, P=4, Q=4, R=3, S=3, stride_h=2, stride_w=2, pad_h=1, pad_w=1
        ),
        "strides": ConvGeometry(B=2, C=8, H=9, W=7, F=24, P=3, Q=6, R=4, S=2, stride_h=3, pad_h=2, pad_w=0),
        "stride_of_one_tap": ConvGeometry(B=3, C=16, H=6, W=5, F=16, P=3, Q=3, R=1, S=1, stride_h=2, stride_w=2),
        "column_of_taps": ConvGeometry(B=2, C=16, H=7, W=5, F=16, P=3, Q=3, R=2, S=1, stride_h=2, stride_w=2),
        "stride_and_dilation": ConvGeometry(
            *(2, 8, 9, 9, 8, 3, 4, 3, 2), stride_h=2, stride_w=2, dilation_h=2, dilation_w=3, pad_h=1
        ),
        "stride_beyond_the_image": ConvGeometry(
            B=2, C=8, H=1, W=2, F=8, P=2, Q=2, R=3, S=3, stride_h=4, stride_w=3, pad_h=2
        ),
        "pixels_without_taps": ConvGeometry(B=1, C=8, H=9, W=8, F=8, P=3, Q=2, R=2, S=2, stride_h=3, stride_w=4),
        "folded": ConvGeometry(*(6, 2 * least, 8, 6, 3 * least, 4, 3, 3, 3), stride_h=2, stride_w=2, pad_h=1, pad_w=1),
        "folded_and_dilated": ConvGeometry(
            *(1, least, 12, 12, least, 3, 4, 3, 4), stride_h=4, stride_w=3, dilation_h=3, dilation_w=4, pad_h=1, pad_w=6
        ),
        "folded_far": ConvGeometry(*(1, least, 6, 4, least, 4, 3, 2, 5), stride_h=3, stride_w=4, pad_h=5, pad_w=7),
        "whole_rows": ConvGeometry(B=3, C=16, H=5, W=8, F=24, P=4, Q=8, R=3, S=3, pad_h=1, pad_w=1),
        "whole_images": ConvGeometry(B=3, C=24, H=4, W=8, F=8, P=2, Q=4, R=2, S=3, stride_h=2, stride_w=2, pad_w=1),
        "line": ConvGeometry(B=3, C=16, H=4, W=5, F=24, P=4, Q=5, R=1, S=1),
    }


def problems_of_descriptors(least: int) -> dict[str, ConvGeometry]:
    """Return more problems, which differ in how TMA descriptors describe their operands."""
    two: dict[str, int] = dict(stride_h=2, stride_w=2)
    one: dict[str, int] = dict(pad_h=1, pad_w=1)
    flat = least // 4
    several = (64, 64, 32, 32, 64, 32, 32, 3, 3) if least == ON_GPU else (2, 16, 6, 6, 16, 6, 6, 3, 3)
    return {
        "pointwise": ConvGeometry(4, 16, 4, flat, 24, 4, flat, 1, 1),
        "pointwise_groups": ConvGeometry(4, 32, 4, flat, 48, 4, flat, 1, 1, G=2),
        "padded_by_strides": ConvGeometry(2, 16, 4, 6, 16, 4, 5, 1, 1, **two, pad_h=2, pad_w=2),
        "strided_groups": ConvGeometry(least, 32, 4, 6, 48, 2, 3, 3, 3, **two, **one, G=2),
        "strided_line": ConvGeometry(2, 24, 6, 2 * least, 8, 3, least, 3, 2, **two, pad_h=1),
        "strided_rows": ConvGeometry(3, 16, 4, 16, 24, 2, 8, 3, 3, **two, **one),
        "rows": ConvGeometry(3, 16, 5, 8, 16, 4, 8, 2, 2, **one),
        "wide": ConvGeometry(2, 16, 3, least, 24, 3, least, 3, 3, **one),
        "overhanging": ConvGeometry(2, 16, 3, least + 1, 24, 3, least + 1, 3, 3, **one),
        "several_tiles": ConvGeometry(*several, **one),
    }


PROBLEMS = problems(LEAST)


# Strided problems in which fprop runs one loop over all taps, and dgrad copies its results out though they are phases.
FOLDED = [PROBLEMS[name] for name in ("folded", "folded_and_dilated", "folded_far")]


def factors(geometry: ConvGeometry, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, weight and features of random integers from -2 to 2, in float16 and channels_last."""
    sizes = (geometry.image_shape, geometry.weight_shape, geometry.feature_shape)
    x, weight, y = (laid_out(torch.randint(-2, 3, size).to(device, torch.float16), "channels_last") for size in sizes)
    return x, weight, y


def expected(geometry: ConvGeometry, x: Tensor, weight: Tensor, y: Tensor) -> dict[Operator, Tensor]:
    """Return the result of each operator in float64, by torch, on an image that is padded to end with the last window.

    Where the image reaches beyond the last window, it is cropped instead.
    """
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    after_h = (geometry.P - 1) * geometry.stride_h + (geometry.R - 1) * geometry.dilation_h + 1
    after_w = (geometry.Q - 1) * geometry.stride_w + (geometry.S - 1) * geometry.dilation_w + 1
    after_h, after_w = after_h - geometry.H - geometry.pad_h, after_w - geometry.W - geometry.pad_w
    padded = pad(x, (geometry.pad_w, after_w, geometry.pad_h, after_h))
    stride, dilation = (geometry.stride_h, geometry.stride_w), (geometry.dilation_h, geometry.dilation_w)
    features = conv2d(padded, weight, stride=stride, dilation=dilation, groups=geometry.G)
    assert features.shape == y.shape
    image, filters = torch.autograd.grad(features, (x, weight), y.double())
    return {"fprop": features.detach(), "dgrad": image, "wgrad": filters}


def guarded_call(operator: Operator, geometry: ConvGeometry, x: Tensor, weight: Tensor, y: Tensor, **more: Any) -> Call:
    """Return a call on operands between guard bands of NaN. `more` goes to `call_of`."""
    return call_of(operator, geometry, dict(x=guarded(x), weight=guarded(weight), y=guarded(y)), **more)


def tile_in(operator: Operator, shape: BlockShape | None = None) -> Tile:
    """Return a tile of LEAST pixels in blocks of this shape, by default of the first candidate shape."""
    split = 2 if operator == "wgrad" else 1
    tile = Tile(LEAST, LEAST, LEAST, num_warps=4, num_stages=2, GROUP_M=2, SPLIT_K=split)
    return with_shape(tile, shape or candidate_shapes(LEAST, operator)[0])
