"""Tables of measured tiles: which table serves which GPU, and which row comes first."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpus import H200
from tests.support.measured_tables import GEOMETRY, OPERANDS, empty_tables, row_for
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.tiling import measured, pick
from tritonconv.tiling.tile import Tile

NEAR, FAR, OTHER = Tile(128, 64, 64, 4, 3), Tile(64, 128, 64, 4, 3), Tile(64, 64, 64, 4, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from empty_tables(tmp_path, monkeypatch)


def write(folder: Path, gpu: str, *rows: dict[str, Any], **about: Any) -> None:
    """Write the table of the GPU of that name. `about` has its architecture and its number of multiprocessors."""
    (folder / measured.file_of(gpu)).write_text(json.dumps({"gpu": gpu, **about, "rows": rows}))


def sm_90(multiprocessors: int) -> dict[str, Any]:
    return {"architecture": "sm_90", "multiprocessors": multiprocessors}


@pytest.mark.parametrize(
    ("here", "there", "alike"),
    [
        (("sm_90", 132), ("sm_90", 132), True),
        (("sm_90", 132), ("sm_90", 119), True),
        (("sm_90", 132), ("sm_90", 118), False),
        (("sm_90", 100), ("sm_90", 90), True),
        (("sm_90", 100), ("sm_90", 89), False),
        (("sm_90", 132), ("sm_100", 132), False),
    ],
)
def test_which_gpus_are_alike(here: tuple[str, int], there: tuple[str, int], alike: bool) -> None:
    """Numbers of multiprocessors are alike if they differ by at most a tenth of the larger one."""
    one, other = Gpu.of(*here, "One"), Gpu.of(*there, "Other")
    assert one.alike(other) == other.alike(one) == alike


def test_switches_do_not_make_gpus_different() -> None:
    assert H200.alike(H200.switched(host_descriptors=not H200.architecture.host_descriptors))
    assert not INTERPRETER.alike(H200)


def test_a_gpu_takes_tiles_of_one_like_it(folder: Path) -> None:
    write(folder, "NVIDIA H200", row_for(NEAR), **sm_90(132))
    for gpu in (H200, Gpu.of("sm_90", 132, "NVIDIA H100 80GB HBM3"), Gpu.of("sm_90", 120, "NVIDIA cut")):
        assert pick.pick(GEOMETRY, "fprop", OPERANDS, gpu) == NEAR
        assert pick.measured_on(GEOMETRY, "fprop", OPERANDS, gpu) == "NVIDIA H200"
    nameless = Gpu.of("sm_90", 132)
    for gpu in (nameless, Gpu.of("sm_90", 114, "NVIDIA H100 PCIe"), Gpu.of("sm_80", 132, "NVIDIA A100")):
        assert measured.rows(gpu) == {}
        assert pick.measured_for(GEOMETRY, "fprop", OPERANDS, gpu) is None
        assert pick.measured_on(GEOMETRY, "fprop", OPERANDS, gpu) is None
    assert pick.pick(GEOMETRY, "fprop", OPERANDS, nameless) != NEAR


def test_its_own_rows_come_first_then_the_nearest_then_by_name(folder: Path) -> None:
    """This is decided row by row: a problem that the GPU's own table lacks is looked up in the next."""
    write(folder, "NVIDIA H100", row_for(NEAR), **sm_90(132))
    write(folder, "NVIDIA A", row_for(OTHER), row_for(OTHER, "dgrad"), row_for(OTHER, "wgrad"), **sm_90(128))
    write(folder, "NVIDIA B", row_for(FAR), row_for(FAR, "dgrad"), row_for(FAR, "wgrad"), **sm_90(128))
    write(folder, "NVIDIA Z", row_for(NEAR, "dgrad"), **sm_90(131))
    found = measured.rows(Gpu.of("sm_90", 132, "NVIDIA H100"))
    assert {key[0]: (row.gpu, Tile(*row.tile)) for key, row in found.items()} == {
        "fprop": ("NVIDIA H100", NEAR),
        "dgrad": ("NVIDIA Z", NEAR),
        "wgrad": ("NVIDIA A", OTHER),
    }


def test_the_own_table_counts_whatever_it_says_of_the_gpu(folder: Path) -> None:
    """An older table says nothing of its GPU. It serves the GPU of its name and no other."""
    write(folder, "NVIDIA H200", row_for(NEAR))
    write(folder, "NVIDIA Slice", row_for(FAR), **sm_90(132))
    assert pick.measured_for(GEOMETRY, "fprop", OPERANDS, H200) == NEAR
    assert pick.measured_for(GEOMETRY, "fprop", OPERANDS, Gpu.of("sm_90", 16, "NVIDIA Slice")) == FAR
    assert pick.measured_on(GEOMETRY, "fprop", OPERANDS, Gpu.of("sm_90", 132, "NVIDIA H100")) == "NVIDIA Slice"


def test_the_order_of_a_sum_is_no_matter_of_the_table(folder: Path) -> None:
    """A tile of a GPU like this one is not picked if it sums in another order than is usual here."""
    write(folder, "NVIDIA H200", row_for(Tile(256, 64, 32, 8, 4)), **sm_90(132))
    gpu = Gpu.of("sm_90", 132, "NVIDIA H100")
    assert pick.usual_summation_order(GEOMETRY, "fprop", OPERANDS, gpu) == (64, False)
    assert pick.pick(GEOMETRY, "fprop", OPERANDS, gpu).BLOCK_K == 64


def test_a_look_up_reads_no_file_again(folder: Path) -> None:
    write(folder, "NVIDIA H200", row_for(NEAR), **sm_90(132))
    before = measured.rows(H200)
    assert before
    (folder / "nvidia-h200.json").unlink()
    assert measured.rows(H200) is before


def test_every_table_of_the_package_serves_gpus_like_its_own() -> None:
    for path in measured.FOLDER.glob("*.json"):
        table = json.loads(path.read_text())
        like = Gpu.of(table["architecture"], table["multiprocessors"], "NVIDIA Test")
        assert set(measured.rows(like)) >= {tuple(row["key"]) for row in table["rows"]}
