"""The benchmark's layers are those of the table, and their geometry is torch's."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from bench.layers import FAMILIES, SMOKE, Layer, read, select

LAYERS = read()


def test_all_are_there() -> None:
    assert len(LAYERS) == len({layer.name for layer in LAYERS}) == 50
    assert [layer.name for layer in select("smoke")] == list(SMOKE)
    assert len(SMOKE) == 12
    assert {layer.family for layer in select("smoke")} == {layer.family for layer in LAYERS} == set(FAMILIES)
    assert Counter(layer.family for layer in LAYERS)["depthwise"] == 10
    assert all(layer.operator == layer.case.name_of_function for layer in LAYERS)


def test_every_local_layer_has_its_transposed_form() -> None:
    """The same geometry, with the feature side for its input."""
    local = [layer for layer in LAYERS if layer.family == "local"]
    there, back = ([layer for layer in local if layer.case.transposed == side] for side in (False, True))
    assert [layer.geometry for layer in there] == [layer.geometry for layer in back]
    assert len(there) == 3
    for layer in local:
        geometry = layer.geometry
        assert geometry.weight_shape[:2] == (geometry.P, geometry.Q)
        assert layer.scaled_down().geometry.weight_shape[:2] == (2, 2)


def test_selection_by_name() -> None:
    assert [layer.name for layer in select("unet_up1,rn50_conv1")] == ["unet_up1", "rn50_conv1"]
    with pytest.raises(ValueError, match="no such layer: nonsense"):
        select("unet_up1,nonsense")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_geometry_is_that_of_torch(layer: Layer, small: bool) -> None:
    """A local layer's is that of a convolution with one of its weights."""
    layer = layer.scaled_down() if small else layer
    case, geometry = layer.case, layer.geometry
    function = conv_transpose2d if case.transposed else conv2d
    input, weight = (torch.empty(shape, device="meta") for shape in (case.input_shape, case.weight_shape[-4:]))
    result = function(input, weight, **case.arguments)
    sides = (geometry.feature_shape, geometry.image_shape)
    assert (input.shape, result.shape) == (sides if case.transposed else sides[::-1])
    assert weight.shape == geometry.weight_shape[-4:]


def test_at_batch_only_the_number_of_images_changes() -> None:
    for layer in LAYERS:
        own, one = layer.geometry, layer.at_batch(1).geometry
        assert one == replace(own, B=1)
        assert (layer.at_batch(1).name, layer.at_batch(1).family) == (layer.name, layer.family)
        assert layer.at_batch(own.B) == layer


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_scaled_down_stays_what_it_is(layer: Layer) -> None:
    small = layer.scaled_down()
    assert small.family == layer.family
    assert small.case.kernel == ((3, 3) if layer.family == "local" else layer.case.kernel)
    assert (small.case.stride, small.case.dilation) == (layer.case.stride, layer.case.dilation)
    assert small.geometry.flops < 1e8
