"""Every shipped tile, compiled offline: it fits, nothing spills, tensor cores multiply and copies are asynchronous."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tritonconv.tiles import SHARED_BYTES

pytest.importorskip("triton")


def rows(arch: str, dtype: str) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lowering", arch, dtype],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_amd() -> None:
    compiled = rows("gfx942", "bfloat16")
    assert len(compiled) >= 8
    assert all(row["mma"] and row["shared"] <= row["promised"] <= 65_536 for row in compiled)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_every_shipped_tile(arch: str, dtype: str) -> None:
    itemsize = {"bfloat16": 2, "float32": 4}[dtype]
    limit = SHARED_BYTES[int(arch.removeprefix("sm_"))]
    compiled = rows(arch, dtype)
    assert {row["align"][1] for row in compiled} == {1, 16 // itemsize}
    assert any(row["tile"][:2] == [128, 128] for row in compiled)
    for row in compiled:
        assert row["align"][0] == row["vector"], row
        assert row["shared"] <= min(row["promised"], limit), row
        assert row["stack"] == row["spills"] == 0, row
        assert bool(row["mma"]) != row["exact"], row
        assert bool(row["copies"]) == (row["vector"] * itemsize >= 4), row
        if row["vector"] * itemsize == 16:
            assert any(name.endswith(".128") for name in row["copies"]), row
