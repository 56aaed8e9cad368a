"""Every shipped tile, compiled offline: it fits, nothing spills, tensor cores multiply and copies are asynchronous."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tritonconv.tiles import SHARED_BYTES

pytest.importorskip("triton")


OPERATORS = ["fprop", "dgrad", "wgrad"]


def rows(arch: str, dtype: str, operator: str) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lowering", arch, dtype, operator],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("operator", OPERATORS)
def test_amd(operator: str) -> None:
    compiled = rows("gfx942", "bfloat16", operator)
    assert len(compiled) >= 8
    assert all(row["mma"] and row["shared"] <= row["promised"] <= 65_536 for row in compiled)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        ("sm_90", "bfloat16"),
        ("sm_90", "float32"),
        ("sm_80", "bfloat16"),
        ("sm_100", "bfloat16"),
        pytest.param("sm_80", "float32", marks=pytest.mark.slow),
        pytest.param("sm_100", "float32", marks=pytest.mark.slow),
    ],
)
def test_every_shipped_tile(arch: str, dtype: str, operator: str) -> None:
    itemsize = {"bfloat16": 2, "float32": 4}[dtype]
    limit = SHARED_BYTES[int(arch.removeprefix("sm_"))]
    compiled = rows(arch, dtype, operator)
    assert any(row["tile"][:2] == [128, 128] for row in compiled)
    for row in compiled:
        # Of fprop and dgrad the one side is loaded and the other stored; wgrad loads both.
        loaded = {"fprop": row["memory"][:1], "dgrad": row["memory"][1:], "wgrad": row["memory"]}[operator]
        assert row["shared"] <= min(row["promised"], limit), row
        assert row["stack"] == row["spills"] == 0, row
        assert bool(row["mma"]) != row["exact"], row
        assert bool(row["copies"]) >= (max(loaded) * itemsize >= 4), row
        if operator != "wgrad" and loaded[0] * itemsize == 16:
            assert any(name.endswith(".128") for name in row["copies"]), row
        if operator == "wgrad" and dtype == "bfloat16" and min(loaded) == 8:
            assert all(name.endswith((".128", ".64")) for name in row["copies"]), row
