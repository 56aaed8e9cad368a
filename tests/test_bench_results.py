"""The record of a run: whole at any moment, and with a hash of the code; and what is carried between machines."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.device import cache
from bench.device.schedule import Record
from bench.results import ROOT
from tritonconv.geometry import OPERATORS

HASH_OF_SNIPPET = "7f4e4e360316"


def environment(**kernels: str) -> dict[str, Any]:
    return {"gpu": "NVIDIA Test", "date": "2026-01-01", "kernels": kernels}


def test_the_record_is_whole_after_every_unit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "layers.json"
    record = Record(path, part="layers", environment=environment(), ceilings={})
    for expected in (None, ["a", "b"]):
        assert results.load(path)["remaining"] == expected
        assert not results.load(path)["complete"]
        record.plan(["a", "b"])
    record.add("a", [{"layer": "a"}])
    assert results.load(path)["rows"] == [{"layer": "a"}]
    assert results.load(path)["remaining"] == ["b"]
    record.close("the time was up")
    assert (results.load(path)["complete"], results.load(path)["stopped"]) == (False, "the time was up")
    record.add("b", [{"layer": "b"}])
    record.close()
    assert results.load(path)["complete"]
    assert [p.name for p in path.parent.iterdir()] == ["layers.json"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    results.write(path, "old")

    def full(path: Path, _: str) -> None:
        path.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        results.write(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    for path in (ROOT / "tritonconv" / "kernels").glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def changed_hashes(folder: Path, name: str, old: str, new: str) -> set[str]:
    before = results.kernel_hashes(folder)
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = results.kernel_hashes(folder)
    return {operator for operator in before if before[operator] != after[operator]}


def test_the_hash_is_of_the_code(kernels: Path) -> None:
    assert results.kernel_hashes(kernels) == results.kernel_hashes()
    assert len(set(results.kernel_hashes().values())) == 3
    assert changed_hashes(kernels, "wgrad.py", "\nimport triton\n", "\n# a comment\nimport triton\n") == set()
    assert changed_hashes(kernels, "wgrad.py", "rows are filters", "rows are the filters") == set()
    assert changed_hashes(kernels, "wgrad.py", "import triton\n", "import triton\n\nx = 1\n") == {"wgrad"}


def test_the_hash_is_the_same_in_every_python(kernels: Path) -> None:
    """3.12 and 3.13 have other syntax trees than 3.11."""
    for name in (*OPERATORS, *(f"{operator}_tiled" for operator in OPERATORS)):
        (kernels / f"{name}.py").write_text("def f(x, *, y: int = 1) -> str:\n    return f'{x}' + \"y\"  # words\n")
    assert set(results.kernel_hashes(kernels).values()) == {HASH_OF_SNIPPET}


def test_the_hash_follows_imports(kernels: Path) -> None:
    assert changed_hashes(kernels, "gemm.py", "import triton\n", "import triton\n\nx = 1\n") == {"fprop", "dgrad"}
    assert changed_hashes(kernels, "index.py", "import triton\n", "import triton\n\nx = 1\n") == set(OPERATORS)
    assert changed_hashes(kernels, "dgrad.py", "import triton\n", "import triton\n\nx = 1\n") == {"dgrad"}


def test_compiled_kernels_are_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one folder into another, where Triton's index must name the files as they lie there."""
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with cache.kept(tmp_path) as keep:
        first = Path(os.environ["TRITON_CACHE_DIR"])
        (first / "KEY").mkdir()
        (first / "KEY" / "kernel.cubin").write_bytes(b"code")
        group = {"child_paths": {"kernel.cubin": str(first / "KEY" / "kernel.cubin")}}
        (first / "KEY" / "__grp__kernel.json").write_text(json.dumps(group))
        keep()
        assert (tmp_path / cache.ARCHIVE).exists()
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not first.exists()
    with cache.kept(tmp_path):
        second = Path(os.environ["TRITON_CACHE_DIR"])
        found = json.loads((second / "KEY" / "__grp__kernel.json").read_text())["child_paths"]
        assert Path(found["kernel.cubin"]).read_bytes() == b"code"
        assert Path(found["kernel.cubin"]).is_relative_to(second)


def test_a_broken_archive_is_no_hindrance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / cache.ARCHIVE).write_bytes(b"\xfd7zXZ\x00 and no more")
    with cache.kept(tmp_path):
        assert list(Path(os.environ["TRITON_CACHE_DIR"]).iterdir()) == []
    assert "can not be read" in capsys.readouterr().err


def test_without_a_folder_the_cache_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    with cache.kept(None) as keep:
        keep()
        assert os.environ["TRITON_CACHE_DIR"] == "mine"
