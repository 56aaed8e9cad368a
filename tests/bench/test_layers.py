"""The benchmark's layers are those of the table, and their geometry is torch's."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from bench.layers import FAMILIES, HELD_OUT, SMOKE, Layer, few_positions, read, select, tunable
from bench.run.roof import patch_bytes
from tests.support.cases import Case
from tritonconv.geometry import OPERATORS, Operator
from tritonconv.tiling import measured

LAYERS = read()
HELD = read(HELD_OUT)


def test_all_are_there() -> None:
    assert len(LAYERS) == len({layer.name for layer in LAYERS}) == 56
    assert [layer.name for layer in select("smoke")] == list(SMOKE)
    assert len(SMOKE) == 14
    assert {layer.family for layer in select("smoke")} == {layer.family for layer in LAYERS} == set(FAMILIES)
    counted = Counter(layer.family for layer in LAYERS)
    assert [counted[family] for family in ("depthwise", "local", "per sample", "dynamic")] == [10, 6, 3, 3]
    assert all(layer.operator == layer.case.name_of_function for layer in [*LAYERS, *HELD])


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


def test_held_out_layers_are_chosen_by_name_only() -> None:
    """ "all" leaves them out. Their names, and "held-out", may stand beside others, and each layer is there once."""
    assert select("all") == LAYERS
    assert select("held-out") == HELD
    assert select("held-out,all") == [*HELD, *LAYERS]
    (held, other) = select(f"{HELD[3].name},unet_up1,{HELD[3].name}")
    assert (held, other.name) == (HELD[3], "unet_up1")
    assert held.held_out
    assert held.scaled_down().held_out
    assert held.at_batch(1).held_out
    assert not any(layer.held_out for layer in LAYERS)


def test_held_out_layers_are_what_no_one_tunes() -> None:
    """Odd images, batches and channels, in the families that tiles are tuned for."""
    assert len(HELD) == len({layer.name for layer in (*LAYERS, *HELD)}) - len(LAYERS) == 12
    assert {layer.geometry.B for layer in HELD} == {1, 8, 96}
    assert {layer.case.size for layer in HELD} == {(240, 240), (17, 31)}
    assert {channels for layer in HELD for channels in layer.case.channels} == {96, 192, 384, 576}
    assert {layer.family for layer in HELD} == {"dense 3x3", "1x1", "strided", "transposed"}


def numbers(layer: Layer, operator: Operator) -> tuple[Any, ...]:
    """The part of a key that follows from the problem: it is the same for all dtypes and memory layouts."""
    return measured.key(layer.geometry, operator)[1:]


@pytest.mark.parametrize("layer", HELD, ids=lambda layer: layer.name)
def test_no_table_of_measured_tiles_has_a_held_out_layer(layer: Layer) -> None:
    """In no dtype, for no operator. Nor would one have it after tuning all other layers."""
    tables = [json.loads(path.read_text())["rows"] for path in measured.FOLDER.glob("*.json")]
    rows = [tuple(row["key"]) for table in tables for row in table]
    assert rows
    for operator in OPERATORS:
        own = numbers(layer, operator)
        assert not [row for row in rows if row[-len(own) :] == own]
        assert own not in [numbers(other, operator) for other in LAYERS]


def test_the_numbers_of_a_key_are_found_in_the_tables() -> None:
    """Else no layer would be in a table, and the test above would find none either."""
    (layer,) = select("rn50_c4_3x3")
    rows = json.loads((measured.FOLDER / "nvidia-h200.json").read_text())["rows"]
    for operator in OPERATORS:
        own = numbers(layer, operator)
        found = {row["layer"] for row in rows if row["key"][0] == operator and tuple(row["key"][-len(own) :]) == own}
        assert found == {"rn50_c4_3x3"}


def test_held_out_layers_are_not_tuned() -> None:
    assert tunable("all") == LAYERS
    assert tunable(["unet_up1"]) == select("unet_up1")
    with pytest.raises(ValueError, match=f"held-out layers are never tuned: {HELD[0].name}, {HELD[1].name}"):
        tunable(f"unet_up1,{HELD[0].name},{HELD[1].name}")
    with pytest.raises(ValueError, match="held-out layers are never tuned"):
        tunable("held-out")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("layer", [*LAYERS, *HELD], ids=lambda layer: layer.name)
def test_geometry_is_that_of_torch(layer: Layer, small: bool) -> None:
    """If the weight varies, it is that of a convolution with one of the weights."""
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


@pytest.mark.parametrize("layer", [*LAYERS, *HELD], ids=lambda layer: layer.name)
def test_scaled_down_stays_what_it_is(layer: Layer) -> None:
    small = layer.scaled_down()
    assert small.family == layer.family
    assert small.case.kernel == ((3, 3) if "p" in layer.case.varies else layer.case.kernel)
    assert (small.case.groups == 1) == (layer.case.groups == 1)
    assert (small.case.groups == max(small.case.channels)) == (layer.case.groups == max(layer.case.channels))
    if layer.family == "depthwise":
        assert small.case.channels == (32, 32)
    assert (small.case.stride, small.case.dilation) == (layer.case.stride, layer.case.dilation)
    assert small.geometry.flops < 1e8


def test_a_weight_for_each_sample_and_location() -> None:
    """The weight has an axis for each letter that it varies over. Small versions have few samples and positions."""
    lead = {
        layer.name: layer.geometry.weight_shape[:-4] for layer in LAYERS if layer.family in ("per sample", "dynamic")
    }
    assert lead == {
        "stylegan2_modulated_512_at_32": (16,),
        "condconv_effb0_1x1_112_to_672_at_14": (128,),
        "condconv_effb0_dw5_672_at_14": (128,),
        "kpn_5x5_8_to_1_at_128": (4, 128, 128),
        "dfn_local_9x9_at_64": (16, 64, 64),
        "involution_7x7_256_at_14": (32, 14, 14),
    }
    small = {name: select(name)[0].scaled_down().geometry.weight_shape[:-4] for name in lead}
    assert small == {name: (2, 2, 2)[: len(shape)] for name, shape in lead.items()}


def test_what_varies_fits_into_the_memory_of_a_gpu() -> None:
    """With patches and their gradient, in 2-byte elements, each takes less than 4 GB."""
    for layer in LAYERS:
        geometry = layer.geometry
        if layer.family in ("per sample", "dynamic"):
            assert geometry.minimal_bytes(2) + 2 * patch_bytes("fprop", geometry, 2) < 4e9


def test_few_positions_keep_padding_and_groups_possible() -> None:
    """A kernel of 9 taps with padding 4 becomes one of 3 taps with padding 1."""
    case = Case("case", 8, (48, 96), (20, 30), (9, 9), padding=4, groups=6, varies="b p q")
    small = few_positions(case)
    assert (small.batch, small.channels, small.groups) == (2, (32, 32), 4)
    assert (small.kernel, small.padding, small.size) == ((3, 3), 1, (2, 2))
    assert small.geometry.feature_shape == (2, 32, 2, 2)
