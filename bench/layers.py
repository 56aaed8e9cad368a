"""The layers of the benchmark, with the family of each, and versions for a CPU.

`layers.csv` lists the layers that tiles may be tuned for. `held_out.csv` lists layers that no tile is ever tuned for.
They show how fast a layer is whose tile comes from the cost model.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.cases import Case
from tritonconv.geometry import ConvGeometry
from tritonconv.reference.torch_rules.arguments import FUNCTIONS

# The families of layers whose weight varies, by the letters that it varies over.
VARYING = {"p q": "local", "b": "per sample", "b p q": "dynamic"}
FAMILIES = (
    "dense 3x3",
    "1x1",
    "strided",
    "transposed",
    "grouped",
    "depthwise",
    "stem",
    "few filters",
    *VARYING.values(),
)
# The letters that an operator's weight varies over, by the operator's name.
VARIES = {name: letters for letters, names in FUNCTIONS.items() for name in names}

# A stem has at most this many input channels, and a layer with few filters at most that many output channels.
STEM_CHANNELS = 4
FEW_FILTERS = 16

# Fourteen layers that cover every family.
SMOKE = (
    "rn50_c3_3x3",
    "rn50_c2_1x1_expand",
    "rn50_c3_3x3_s2",
    "unet_up1",
    "resnext50_32x4d_c2_g32",
    "convnext_t_dw7_384_at_14",
    "rn50_conv1",
    "sd_vae_conv_out_128_to_3",
    "sd15_unet_1280_at_16",
    "rn50_c5_3x3",
    "dcgan_up_512_to_256_4x4_s2",
    "deepface_l4_local_9x9",
    "stylegan2_modulated_512_at_32",
    "kpn_5x5_8_to_1_at_128",
)


@dataclass(frozen=True)
class Layer:
    """One layer of a network: a named problem, in channels_last and without a bias, and the network's name.

    `held_out` says that no tile is ever tuned for the layer.
    """

    case: Case
    operator: str
    network: str
    held_out: bool = False

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def family(self) -> str:
        """The name of the layer's family. The family decides which kernel suits a layer.

        A layer that fits several families is counted in the first that this function tests for.
        """
        into, out = self.case.channels
        groups = self.case.groups
        if self.case.varies:
            return VARYING[self.case.varies]
        if self.case.transposed:
            return "transposed"
        if groups > 1:
            return "depthwise" if groups == into == out else "grouped"
        if into <= STEM_CHANNELS:
            return "stem"
        if out <= FEW_FILTERS:
            return "few filters"
        if self.case.stride > 1:
            return "strided"
        return "1x1" if self.case.kernel == (1, 1) else f"dense {self.case.kernel[0]}x{self.case.kernel[1]}"

    @property
    def geometry(self) -> ConvGeometry:
        return self.case.geometry

    def at_batch(self, batch: int) -> "Layer":
        """Return the layer with `batch` images, its channels and sizes unchanged. Its name stays."""
        return replace(self, case=replace(self.case, batch=batch))

    def scaled_down(self) -> "Layer":
        """Return a layer of the same family that takes a CPU milliseconds. Its times say nothing about this layer."""
        case = self.case
        if "p" in case.varies:
            return replace(self, case=few_positions(case))
        groups, channels = few_channels(case)
        reach = case.dilation * (max(case.kernel) - 1) + 1 - 2 * case.padding
        size = max(min(min(case.size), 16), 1 if case.transposed else reach)
        small = replace(case, batch=min(case.batch or 1, 2), channels=channels, size=(size, size), groups=groups)
        return replace(self, case=small)


def few_channels(case: Case) -> tuple[int, tuple[int, int]]:
    """Return at most 32 groups, and at most 32 channels of input and result. A depthwise case stays depthwise."""
    groups = case.groups if case.groups == 1 else 32 if case.groups == max(case.channels) else 4
    into, out = (groups * min(channels // case.groups, 32 // groups) for channels in case.channels)
    return groups, (into, out)


def few_positions(case: Case) -> Case:
    """Return a case whose weight varies over locations with 2 x 2 positions and at most 3 x 3 taps.

    Every position has a weight of its own, so few positions keep the weight small.
    """
    groups, channels = few_channels(case)
    taps = min(3, *case.kernel)
    padding = min(case.padding, taps // 2)
    reach = case.stride + case.dilation * (taps - 1) + 1 - 2 * padding
    size = 2 if case.transposed else max(reach, 1)
    small = replace(case, batch=min(case.batch or 1, 2), channels=channels, size=(size, size), groups=groups)
    return replace(small, kernel=(taps, taps), padding=padding)


TABLE = Path(__file__).with_name("layers.csv")
HELD_OUT = Path(__file__).with_name("held_out.csv")


def read(path: Path = TABLE) -> list[Layer]:
    """Return the layers of a table with the columns of `layers.csv`, in the table's order.

    Those of `held_out.csv` are marked as held out.
    """
    layers = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            case = Case(
                row["name"],
                batch=int(row["batch"]),
                channels=(int(row["in_channels"]), int(row["out_channels"])),
                size=(int(row["height"]), int(row["width"])),
                kernel=(int(row["kernel_h"]), int(row["kernel_w"])),
                stride=int(row["stride"]),
                padding=int(row["padding"]),
                dilation=int(row["dilation"]),
                groups=int(row["groups"]),
                transposed="transpose" in row["operator"],
                varies=VARIES[row["operator"]],
                bias=False,
                x="channels_last",
                weight="channels_last",
            )
            layers.append(Layer(case, row["operator"], row["network"], held_out=path == HELD_OUT))
    return layers


def select(rows: str | Sequence[str]) -> list[Layer]:
    """Return layers by name, each once, in the order of the names. Raise ValueError for names that do not exist.

    "all" stands for the layers of `layers.csv`, "smoke" for a few of them, and "held-out" for those of `held_out.csv`.
    `rows` is a list of names, or a text with commas between them.
    """
    layers, held_out = read(), read(HELD_OUT)
    one = {layer.name: [layer] for layer in (*layers, *held_out)}
    known = {"all": layers, "smoke": [each for name in SMOKE for each in one[name]], "held-out": held_out, **one}
    names = rows.split(",") if isinstance(rows, str) else rows
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no such layer: {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(layer for name in names for layer in known[name]))


def tunable(rows: str | Sequence[str]) -> list[Layer]:
    """Return layers as `select` does. Raise ValueError if one of them is held out, because none of those is tuned."""
    layers = select(rows)
    if held_out := [layer.name for layer in layers if layer.held_out]:
        raise ValueError(f"held-out layers are never tuned: {', '.join(held_out)}")
    return layers
