"""The record of a run, which is valid at any moment, and the archive of compiled kernels."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.device import cache
from bench.device.schedule import Record


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


def test_compiled_kernels_are_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels are unpacked into another folder, so the paths in Triton's index files must name that folder."""
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
