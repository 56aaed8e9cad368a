"""Each row of facts about GPUs is consistent, and a GPU without a row is treated as a known one."""

import pickle
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.lowering.bounds import ARCHS, bound_tflops, products_of
from tritonconv import runtime
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import ARCHITECTURES, INTERPRETER, KIB, LEAST_CAPABILITY, Architecture, Gpu, architecture
from tritonconv.tiling import fits, pick
from tritonconv.tiling.tile import Operands, Tile

ROWS = pytest.mark.parametrize("row", ARCHITECTURES.values(), ids=repr)
NVIDIA = [row for row in ARCHITECTURES.values() if row.vendor == "NVIDIA"]
# TFLOP/s in 16 bits, TF32 and float32, from data sheets: dense, summed in float32. The float32 rates of the H100 and
# the B200 are those at the clock of their matrix rates.
PEAKS = {
    "sm_80": (312, 156, 19.5),
    "sm_86": (154.8, 77.4, 38.7),
    "sm_89": (364, 182, 91),
    "sm_90": (989, 495, 62),
    "sm_100": (2250, 1125, 70),
    "sm_120": (504, 252, 126),
    "gfx942": (1307, 653, 163),
}
# KiB of shared memory that one block may use, from the CUDA C++ Programming Guide and AMD's MI300X data sheet.
SHARED_KIB = dict(sm_80=163, sm_86=99, sm_87=163, sm_89=99, sm_90=227, sm_100=227, sm_103=227, sm_120=99, gfx942=64)
OPERANDS = [
    *(Operands(2, vector, varies=varies) for vector, varies in product((1, 2, 8), ("", "b", "p q", "b p q"))),
    *(
        Operands(4, vector, exact=exact, varies=varies)
        for vector, exact, varies in product((1, 4), (False, True), ("", "b", "p q", "b p q"))
    ),
    *(Operands(2, 8, tma_possible=True), Operands(4, 4, tma_possible=True)),
]


@ROWS
def test_a_row(row: Architecture) -> None:
    """A block fits its multiprocessor, a thread fits its registers, and rates are its own or those of another row."""
    there = row.multiprocessor
    assert ARCHITECTURES[row.name] is row
    assert row.name.startswith({"NVIDIA": "sm_", "AMD": "gfx"}[row.vendor])
    assert (row.capability is None) == (row.vendor == "AMD")
    assert there.shared_bytes is not None
    assert row.shared_bytes == SHARED_KIB[row.name] * KIB <= there.shared_bytes
    assert 0 < there.blocks <= there.warps
    assert there.registers % there.register_granule == there.register_granule % there.lanes == 0
    assert 0 < row.wgrad_accumulators <= row.accumulators < min(256, there.registers // there.lanes)
    assert min(*row.rates.products, *row.rates.bandwidth) > 0
    half, tf32, float32 = row.rates.products
    assert half >= tf32 >= float32
    memory, l2 = row.rates.bandwidth.memory, row.rates.bandwidth.l2
    assert memory < l2
    if row.rates_from is None:
        assert row.products is not None
        assert row.bandwidth is not None
    else:
        assert row.bandwidth is None
        assert ARCHITECTURES[row.rates_from].rates_from is None
        assert ARCHITECTURES[row.rates_from].vendor == row.vendor
        assert ARCHITECTURES[row.rates_from].tma == row.tma
    if row.data_sheet is not None:
        assert row.products is not None


def test_names_and_data_sheets_stand_once() -> None:
    sheets = [row.data_sheet for row in ARCHITECTURES.values() if row.data_sheet is not None]
    assert len({sheet.name for sheet in sheets}) == len(sheets)
    assert [row.capability for row in NVIDIA] == sorted({row.capability for row in NVIDIA})
    assert min(row.capability for row in NVIDIA) == LEAST_CAPABILITY


@pytest.mark.parametrize("arch", ARCHS)
def test_the_peaks_of_the_data_sheets(arch: str) -> None:
    row = ARCHITECTURES[arch]
    half, tf32, float32 = PEAKS[arch]
    peaks = {"bfloat16": half, "float16": half, "tf32": tf32, "float32": float32}
    for dtype, peak in peaks.items():
        assert bound_tflops(row, products_of(row, dtype), 1) == pytest.approx(peak, rel=0.02), dtype


def test_only_what_has_a_data_sheet_has_bounds() -> None:
    assert list(PEAKS) == ARCHS
    for arch in set(ARCHITECTURES) - set(ARCHS):
        with pytest.raises(ValueError, match=f"no data sheet of a GPU is known for {arch}"):
            bound_tflops(ARCHITECTURES[arch], 1, 1)
        with pytest.raises(ValueError, match=f"the products of {arch} are not known"):
            products_of(ARCHITECTURES[arch], "bfloat16")


@ROWS
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_row_leaves_tiles(row: Architecture, operator: Operator) -> None:
    """Some tiles fit the GPU for all operands, and one of them is picked. TMA tiles are available only with TMA."""
    gpu = Gpu(row, 100)
    for operands in OPERANDS:
        tiles = fits.available(operator, operands, gpu)
        assert tiles, operands
        assert fits.tuning_grid(operator, operands, gpu), operands
        shared = [tile.shared_bytes(operator, operands.itemsize, gpu) for tile in tiles]
        assert max(shared) <= row.shared_bytes
        # In 16 bits, tiles for blocks of pixels are shipped for every operator.
        if operands.tma_possible and operands.itemsize == 2:
            assert any(tile.uses_tma for tile in tiles) == row.tma
        assert row.stages is None or {tile.num_stages for tile in tiles} == {row.stages}
        geometry = ConvGeometry(8, 64, 30, 30, 64, 28, 28, 3, 3, varies=operands.varies)
        picked = replace(pick.pick(geometry, operator, operands, gpu), SPLIT_K=1)
        assert fits.fits(picked, operator, operands.itemsize, gpu)


@pytest.mark.parametrize(
    ("arch", "rates_of", "tma", "products_from_shared"),
    [
        ("sm_75", "sm_80", False, False),
        ("sm_88", "sm_80", False, False),
        ("sm_95", "sm_90", True, True),
        ("sm_101", "sm_100", True, True),
        ("sm_110", "sm_100", True, True),
        ("sm_121", "sm_120", True, False),
    ],
)
def test_an_unknown_compute_capability(arch: str, rates_of: str, tma: bool, products_from_shared: bool) -> None:
    """An unknown compute capability is treated as the newest known one below it, with the lowest limits of all."""
    found = architecture(arch)
    assert (found.name, found.vendor, found.data_sheet) == (arch, "NVIDIA", None)
    assert found.capability == int(arch[3:])
    assert found.rates == ARCHITECTURES[rates_of].rates
    assert (found.tma, found.products_from_shared) == (tma, products_from_shared)
    assert found.shared_bytes == min(row.shared_bytes for row in NVIDIA) == 101_376
    assert found.accumulators == min(row.accumulators for row in NVIDIA)
    assert found.wgrad_accumulators == min(row.wgrad_accumulators for row in NVIDIA)
    assert found.halves_share


def test_sm_103_computes_as_sm_100_does() -> None:
    """The rows of both differ only in the name and the data sheet."""
    known = ARCHITECTURES["sm_100"]
    described = replace(known, name="sm_103", products=None, bandwidth=None, rates_from="sm_100", data_sheet=None)
    assert ARCHITECTURES["sm_103"] == described


def test_amd_gets_two_stages_and_as_large_tiles() -> None:
    """Tiles for AMD are as large as for the NVIDIA GPUs with the fewest accumulators: 64 a thread of a warp of 32."""
    gpu = Gpu.of("gfx942", 304)
    stages = {tile.num_stages for operator in OPERATORS for tile in fits.tuning_grid(operator, Operands(2, 8), gpu)}
    assert stages == {2}
    for operator in OPERATORS:
        assert fits.fits(Tile(64, 128, 32, 4, 2), operator, 2, gpu)
        assert not fits.fits(Tile(128, 128, 32, 4, 2), operator, 2, gpu)


def test_an_unknown_gpu_of_amd() -> None:
    known = ARCHITECTURES["gfx942"]
    assert architecture("gfx90a") == replace(known, name="gfx90a", data_sheet=None)
    assert architecture("gfx942") is known


@pytest.mark.parametrize(
    ("hip", "properties", "gpu"),
    [
        (None, dict(major=9, minor=0, gcnArchName="its name"), Gpu.of("sm_90", 132, "its name")),
        (None, dict(major=12, minor=1, gcnArchName=""), Gpu.of("sm_121", 132, "its name")),
        ("6.4", dict(major=9, minor=4, gcnArchName="gfx942:sramecc+:xnack-"), Gpu.of("gfx942", 132, "its name")),
    ],
)
def test_the_gpu_of_a_device(
    hip: str | None, properties: dict[str, Any], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description of a GPU is built from what torch reports of the device."""
    said = SimpleNamespace(multi_processor_count=132, name="its name", **properties)
    monkeypatch.setattr(runtime, "interpreted", lambda: False)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: said)
    assert runtime.gpu_of.__wrapped__(torch.device("cuda")) == gpu


def test_the_interpreter_runs_out_of_nothing() -> None:
    """In the interpreter any block fits that is a power of two and not smaller than tensor cores take."""
    here = INTERPRETER.architecture
    assert (here.vendor, here.capability, here.shared_bytes) == (None, None, None)
    huge = Tile(4096, 4096, 4096, 1, 16)
    for operator in OPERATORS:
        assert fits.fits(huge, operator, 4, INTERPRETER)
        assert not fits.fits(replace(huge, BLOCK_N=24), operator, 4, INTERPRETER)
        assert not fits.fits(replace(huge, BLOCK_N=8), operator, 4, INTERPRETER)
        assert huge.occupancy(operator, 4, INTERPRETER) == 1
    assert "interpreter" not in ARCHITECTURES


def test_gpus_are_equal_by_what_they_are() -> None:
    """Equality and hashes survive pickling to another process, because a GPU is part of a plan's key."""
    for gpu in (Gpu.of("sm_90", 132, "its name"), Gpu.of("sm_110", 20), Gpu.of("gfx942", 304), INTERPRETER):
        again = pickle.loads(pickle.dumps(gpu))
        assert again == gpu
        assert hash(again) == hash(gpu)
    assert Gpu.of("sm_90", 132) != Gpu.of("sm_90", 132, "its name")
    assert Gpu.of("sm_100", 132) != Gpu.of("sm_103", 132)
    assert str(Gpu.of("sm_90", 132)) == "Gpu(architecture=sm_90, multiprocessors=132, name='')"
