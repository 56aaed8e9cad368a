"""The layers of the benchmark, as `layers.csv` lists them, with the family of each, and versions for a CPU."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.cases import Case
from tritonconv.geometry import ConvGeometry

FAMILIES = ("dense 3x3", "1x1", "strided", "transposed", "grouped", "depthwise", "stem", "few filters", "local")

# A stem has at most this many input channels, and a layer with few filters at most that many output channels.
STEM_CHANNELS = 4
FEW_FILTERS = 16

# Twelve layers that cover every family.
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
)


@dataclass(frozen=True)
class Layer:
    """One layer of a network: a named problem, in channels_last and without a bias, and the network's name."""

    case: Case
    operator: str
    network: str

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
            return "local"
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
        if self.family == "local":
            return replace(self, case=few_positions(case))
        groups = case.groups if case.groups == 1 else 4 if self.family == "grouped" else 32
        into, out = (groups * min(n // case.groups, 32 // groups) for n in case.channels)
        reach = case.dilation * (max(case.kernel) - 1) + 1 - 2 * case.padding
        size = max(min(min(case.size), 16), 1 if case.transposed else reach)
        small = replace(case, batch=min(case.batch or 1, 2), channels=(into, out), size=(size, size), groups=groups)
        return replace(self, case=small)


def few_positions(case: Case) -> Case:
    """Return a locally connected case with 2 x 2 positions and at most 3 x 3 taps.

    Every position has a weight of its own, so few positions keep the weight small.
    """
    into, out = (min(channels, 32) for channels in case.channels)
    taps = min(3, *case.kernel)
    reach = case.stride + case.dilation * (taps - 1) + 1 - 2 * case.padding
    size = 2 if case.transposed else max(reach, 1)
    return replace(case, batch=min(case.batch or 1, 2), channels=(into, out), size=(size, size), kernel=(taps, taps))


TABLE = Path(__file__).with_name("layers.csv")


def read(path: Path = TABLE) -> list[Layer]:
    """Return the layers of a table with the columns of `layers.csv`, in the table's order."""
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
                varies="p q" if "locally_connected" in row["operator"] else "",
                bias=False,
                x="channels_last",
                weight="channels_last",
            )
            layers.append(Layer(case, row["operator"], row["network"]))
    return layers


def select(rows: str | Sequence[str], layers: Sequence[Layer] | None = None) -> list[Layer]:
    """Return layers by name: "all", "smoke", or names with commas between them. Raise ValueError for other names."""
    layers = read() if layers is None else layers
    names = list(rows) if not isinstance(rows, str) else {"smoke": list(SMOKE)}.get(rows, rows.split(","))
    if names == ["all"]:
        return list(layers)
    known = {layer.name: layer for layer in layers}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no such layer: {', '.join(unknown)}; there are all, smoke, {', '.join(known)}")
    return [known[name] for name in names]
