"""Variants of the kernels that together take every branch of the kernels' source. `ttir` hashes what they launch.

A variant is what is launched for one geometry with one tile. The block sizes of a tile differ, so that mixing two up
changes the TTIR. The list is short because the tests compile all of it. `bench/results/kernels.json` uses the names.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.lowering.offline import plan_for
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER
from tritonconv.launch.plan import Launch
from tritonconv.tiling.tile import Tile


class Variant(NamedTuple):
    """One variant: `operator` for `geometry` in `dtype` with `tile`.

    With `bias`, fprop and dgrad add a bias, and wgrad also computes the gradient of one. Without `channels_last`, the
    operands are contiguous (NCHW). With `dependent`, wgrad's second launch is a dependent launch. With
    `host_descriptors`, the host makes the TMA descriptors, or otherwise each program.
    """

    operator: Operator
    geometry: ConvGeometry
    tile: Tile
    dtype: str = "bfloat16"
    bias: bool = False
    channels_last: bool = True
    dependent: bool = False
    host_descriptors: bool = False

    @property
    def launches(self) -> list[Launch]:
        """The launches of the variant's plan."""
        how = dict(bias=self.bias, channels_last=self.channels_last)
        gpu = INTERPRETER.switched(host_descriptors=self.host_descriptors, dependent_launch=self.dependent)
        return plan_for(self.operator, self.dtype, self.geometry, gpu, self.tile, **how).launches


def dense(C: int, F: int, size: int = 8, taps: int = 3, B: int = 2, **other: Any) -> ConvGeometry:
    """Return a problem of `size` x `size` pixels and `taps` x `taps` taps, whose weight is shared.

    Each axis has ceil(size / stride) positions. `other` goes to `ConvGeometry`.
    """
    strides = {name: other.get(name, 1) for name in ("stride_h", "stride_w")}
    P, Q = (-(-size // stride) for stride in strides.values())
    return ConvGeometry(B, C, size, size, F, P, Q, taps, taps, **other)


def varying(varies: str, C: int = 64, F: int = 64, B: int = 2, taps: int = 3) -> ConvGeometry:
    """Return a problem of 6 x 6 positions and `taps` x `taps` taps, whose weight varies over the letters `varies`."""
    return ConvGeometry(B, C, 5 + taps, 5 + taps, F, 6, 6, taps, taps, varies=varies)


EVEN, GROUPS = dense(64, 64), dense(128, 128, G=2)
STRIDED, UNEVEN = dense(64, 64, stride_h=2, stride_w=2), dense(64, 64, 9, stride_h=3, stride_w=2, dilation_w=2)
# MANY: more elements than 32 bits can count, in images of fewer. FAR: rows that lie 2^31 elements apart.
MANY, FAR = dense(64, 64, 1024, B=64), ConvGeometry(1, 64, 3, 2**25, 64, 1, 2**25, 3, 1)
BLOCKS, EXACT, SCALARS = Tile(128, 64, 32, 8, 3), Tile(64, 32, 16, 8, 4), Tile(64, 16, 32, 8, 2)
FEW = Tile(4, 16, 8, 1, 4)
# Blocks of pixels with more columns than rows, so that mixing the two up changes the TTIR. HALF has too few columns of
# the result to be stored in halves.
WHOLE = Tile(64, 128, 32, 4, 3, BLOCK_B=2, BLOCK_H=4, BLOCK_W=8)
HALF = Tile(128, 64, 32, 4, 3, BLOCK_B=16, BLOCK_H=2, BLOCK_W=4)
WHOLE_TF32 = Tile(128, 64, 32, 8, 3, BLOCK_B=8, BLOCK_H=2, BLOCK_W=8)


def sides(operator: Operator) -> dict[str, Variant]:
    """Return the variants of `operator`, which is fprop or dgrad, by name."""
    gathered = {
        "vectors": Variant(operator, EVEN, BLOCKS, bias=True),
        "vectors, groups, stride": Variant(operator, dense(128, 128, G=2, stride_h=2, stride_w=2), BLOCKS),
        "pairs": Variant(operator, dense(62, 62), BLOCKS, bias=True),
        "scalars": Variant(operator, dense(63, 63), SCALARS),
        "vectors of the image": Variant(operator, dense(64, 63), SCALARS),
        "vectors of the features": Variant(operator, dense(63, 64), SCALARS),
        "nchw": Variant(operator, dense(12, 12), SCALARS, bias=True, channels_last=False),
        "many taps": Variant(operator, dense(64, 64, 8, 7), BLOCKS),
        "most taps": Variant(operator, dense(64, 64, 40, 33), BLOCKS),
        "wide nchw": Variant(operator, dense(12, 12, 4096, B=64), SCALARS, channels_last=False),
        "far": Variant(operator, FAR, BLOCKS),
        "float32": Variant(operator, EVEN, EXACT, "float32", bias=True),
        "tf32": Variant(operator, EVEN, Tile(128, 128, 32, 8, 3), "tf32"),
        "samples": Variant(operator, varying("b"), BLOCKS, bias=True),
        "samples, vectors of the image": Variant(operator, varying("b", 64, 62), SCALARS),
        "samples, vectors of the features": Variant(operator, varying("b", 60, 64), SCALARS),
        "locations": Variant(operator, varying("p q", B=32), Tile(16, 64, 32, 4, 4), bias=True),
        "locations, few images": Variant(operator, varying("p q"), FEW, bias=True),
        "locations, pairs": Variant(operator, varying("p q", 62, 62, 32), Tile(16, 32, 64, 4, 4)),
        "locations, most taps": Variant(operator, varying("p q", taps=33), FEW),
        "samples and locations": Variant(operator, varying("b p q"), FEW, bias=True),
    }
    tma = {
        "tma": Variant(operator, EVEN, WHOLE, bias=True),
        "tma groups": Variant(operator, GROUPS, HALF),
        "tma tf32": Variant(operator, EVEN, WHOLE_TF32, "tf32"),
        "tma folded": Variant(operator, STRIDED, HALF, bias=True),
        "tma folded, halves": Variant(operator, dense(128, 128, stride_h=2, stride_w=2), WHOLE),
        "tma stride": Variant(operator, UNEVEN, HALF, bias=True),
        "tma scattered": Variant(operator, dense(64, 64, 8, B=2), WHOLE, channels_last=False),
    }
    by_host = ["tma", "tma groups", "tma tf32", "tma folded", "tma folded, halves", "tma scattered"]
    by_host += ["tma stride"] * (operator == "dgrad")  # in fprop, each sub-image has a descriptor
    return gathered | tma | described_by_host({name: tma[name] for name in by_host})


def described_by_host(programs: dict[str, Variant]) -> dict[str, Variant]:
    """Return the same variants with TMA descriptors that the host makes. Their names begin with "host"."""
    return {f"host {name}": each._replace(host_descriptors=True) for name, each in programs.items()}


def wgrad() -> dict[str, Variant]:
    """Return the variants of wgrad, by name. Most of them also launch the kernel that adds up partial sums."""
    split, whole, few = Tile(128, 64, 32, 8, 3, SPLIT_K=2), Tile(64, 32, 16, 4, 3), Tile(16, 64, 1, 4, 2)
    rows = Tile(128, 64, 32, 4, 3, SPLIT_K=2, BLOCK_B=1, BLOCK_H=1, BLOCK_W=32)
    line = Tile(64, 128, 32, 4, 3, SPLIT_K=2, BLOCK_B=32, BLOCK_H=1, BLOCK_W=1)
    whole_rows = Tile(64, 128, 16, 4, 3, BLOCK_B=1, BLOCK_H=2, BLOCK_W=8)
    gathered = {
        "vectors": Variant("wgrad", EVEN, split),
        "vectors, bias": Variant("wgrad", GROUPS, split, bias=True),
        "vectors, dependent": Variant("wgrad", EVEN, split, dependent=True),
        "pairs": Variant("wgrad", dense(62, 62), split),
        "scalars": Variant("wgrad", dense(63, 63), SCALARS, bias=True),
        "vectors of the image": Variant("wgrad", dense(64, 63), SCALARS),
        "vectors of the features": Variant("wgrad", dense(63, 64), SCALARS),
        "nchw": Variant("wgrad", dense(12, 12), SCALARS, channels_last=False),
        "wide": Variant("wgrad", MANY, split, bias=True),
        "float32": Variant("wgrad", EVEN, EXACT, "float32"),
        "tf32": Variant("wgrad", EVEN, EXACT, "tf32"),
        "samples": Variant("wgrad", varying("b"), whole),
        "samples, split": Variant("wgrad", varying("b"), split),
        "locations": Variant("wgrad", varying("p q", B=32), whole),
        "locations, few images": Variant("wgrad", varying("p q"), few),
        "samples and locations": Variant("wgrad", varying("b p q"), few),
    }
    tma = {
        "tma rows": Variant("wgrad", dense(64, 64, 64), rows),
        "tma images": Variant("wgrad", GROUPS, line, bias=True),
        "tma whole rows": Variant("wgrad", EVEN, whole_rows, bias=True),
    }
    strided = {
        "tma rows, groups, stride": Variant("wgrad", dense(128, 128, 64, G=2, stride_h=2, stride_w=2), rows),
        "tma images, stride": Variant("wgrad", STRIDED, line),
        "tma whole rows, stride": Variant("wgrad", dense(64, 64, 16, stride_h=2, stride_w=2), whole_rows),
    }
    dependent = {"tma whole rows, dependent": Variant("wgrad", EVEN, whole_rows, bias=True, dependent=True)}
    return gathered | tma | described_by_host(tma | strided) | dependent


def variants() -> dict[str, dict[str, Variant]]:
    """Return the variants by operator and name."""
    return {operator: wgrad() if operator == "wgrad" else sides(operator) for operator in OPERATORS}


def started() -> Iterator[tuple[Operator, str, Launch]]:
    """Yield each launch of each variant, after its operator and its name.

    The name is that of the variant. It ends in ", sum" if the launch is wgrad's second one, which adds up partial sums.
    """
    for operator in OPERATORS:
        for name, variant in variants()[operator].items():
            for number, each in enumerate(variant.launches):
                yield operator, f"{name}, sum" if number else name, each
