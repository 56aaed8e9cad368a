"""Carries Triton's compiled kernels from one machine to another of the same kind, in one file."""

import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.results import replacing

ARCHIVE = "triton-cache.tar.xz"


@contextmanager
def kept(folder: Path | None) -> Iterator[Callable[[], None]]:
    """Give Triton a cache folder of its own within the block, filled from the archive in `folder`.

    Yield a function that saves the cache to the archive. The end of the block saves it too. If `folder` is None, Triton
    uses its usual cache, and the function does nothing.
    """
    if folder is None:
        yield lambda: None
        return
    before = os.environ.get("TRITON_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="triton-cache-") as live:
        unpack(folder / ARCHIVE, Path(live))
        os.environ["TRITON_CACHE_DIR"] = live  # Triton reads it at each compilation, and other processes inherit it
        try:
            yield lambda: pack(Path(live), folder / ARCHIVE)
        finally:
            os.environ.pop("TRITON_CACHE_DIR") if before is None else os.environ.update(TRITON_CACHE_DIR=before)
            pack(Path(live), folder / ARCHIVE)


def pack(live: Path, archive: Path) -> None:
    """Write the finished files of the cache `live` to the archive. An archive is never half written."""
    with replacing(archive) as beside, tarfile.open(beside, "w:xz", preset=1) as tar:
        for path in sorted(live.rglob("*")):
            if path.is_file() and "tmp.pid" not in str(path):  # Triton's name for files that are being written
                tar.add(path, path.relative_to(live))


def unpack(archive: Path, live: Path) -> None:
    """Unpack the archive into the cache `live`. If there is none, or none that can be read, the cache stays empty.

    Triton's index files contain absolute paths, so they are rewritten for the new folder.
    """
    if not archive.exists():
        return
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(live, filter="data")
    except (tarfile.TarError, EOFError, lzma.LZMAError) as error:
        print(f"{archive} can not be read, so kernels are compiled anew: {error}", file=sys.stderr)
        shutil.rmtree(live)
        live.mkdir()
    for group in live.rglob("__grp__*.json"):
        names = json.loads(group.read_text())["child_paths"]
        group.write_text(json.dumps({"child_paths": {name: str(group.with_name(name)) for name in names}}))
