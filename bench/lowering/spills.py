"""Which kernels are known to spill registers, by the version of Triton that compiles them.

All but one are too small to matter: with 3.8.0, dgrad of locally connected layers spills 168 bytes in one tile on
sm_80. The assembler ptxas aims at a number of programs on a multiprocessor, and so uses a few registers too few. Where
it is told that there are enough, it uses enough.
"""

from collections.abc import Sequence
from typing import Any

from bench.lowering.table import Row, named

Key = tuple[str, str, str, str, int, int]

# The bytes that each thread spills, by the version of Triton. The key is architecture, dtype, kernel and tile, and the
# channels of each side that are loaded or stored at once.
KNOWN: dict[str, dict[Key, int]] = {
    "3.6.0": {
        ("sm_80", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_80", "float32", "wgrad", "64x32x16w8s3", 1, 1): 8,
        ("sm_100", "float32", "wgrad_with_bias", "64x32x16w8s3", 1, 4): 16,
    },
    "3.7.1": {
        ("sm_80", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_80", "bfloat16", "wgrad_local", "64x64x32w4s3", 8, 8): 24,
        ("sm_80", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_86", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_89", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_100", "bfloat16", "wgrad_with_bias", "256x64x32w8s4", 8, 8): 32,
        ("sm_100", "bfloat16", "wgrad_with_bias", "64x64x32w8s2", 1, 1): 8,
        ("sm_100", "bfloat16", "wgrad_per_sample", "64x32x32w8s2", 1, 1): 20,
        ("sm_120", "bfloat16", "fprop_local", "8x32x32w4s4", 8, 8): 8,
    },
    "3.8.0": {
        ("sm_80", "bfloat16", "dgrad_local", "128x16x16w1s4", 8, 8): 168,
        ("sm_80", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_80", "bfloat16", "wgrad_local", "64x64x32w4s3", 8, 8): 48,
        ("sm_80", "bfloat16", "wgrad_with_bias", "64x64x32w8s4", 8, 8): 16,
        ("sm_80", "float32", "wgrad", "64x64x16w8s4", 4, 4): 24,
        ("sm_80", "float32", "wgrad_per_sample", "64x64x16w8s4", 4, 4): 24,
        ("sm_80", "float32", "wgrad_with_bias", "64x32x16w8s3", 1, 1): 20,
        ("sm_80", "float32", "wgrad_with_bias", "64x32x16w8s3", 1, 4): 20,
        ("sm_80", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_86", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_86", "bfloat16", "wgrad_with_bias", "64x64x32w8s4", 8, 8): 16,
        ("sm_86", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_89", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_89", "bfloat16", "wgrad_with_bias", "64x64x32w8s4", 8, 8): 16,
        ("sm_89", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_90", "float32", "fprop_local", "128x16x16w8s3", 4, 4): 8,
        ("sm_90", "float32", "wgrad_with_bias", "128x16x16w4s4", 4, 4): 20,
        ("sm_100", "bfloat16", "fprop_local", "4x64x32w4s4", 8, 8): 16,
        ("sm_100", "tf32", "dgrad_per_sample", "64x64x16w8s2", 4, 1): 8,
    },
    "3.9.0": {
        ("sm_80", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_80", "bfloat16", "wgrad_local", "64x64x32w4s3", 8, 8): 48,
        ("sm_80", "float32", "wgrad", "64x64x16w8s4", 4, 4): 24,
        ("sm_80", "float32", "wgrad_per_sample", "64x64x16w8s4", 4, 4): 24,
        ("sm_80", "float32", "wgrad_with_bias", "64x32x16w8s3", 1, 1): 20,
        ("sm_80", "float32", "wgrad_with_bias", "64x32x16w8s3", 1, 4): 20,
        ("sm_80", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_86", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_86", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_89", "bfloat16", "wgrad", "64x64x32w8s4", 8, 8): 24,
        ("sm_89", "tf32", "wgrad", "64x64x16w8s2", 1, 1): 8,
        ("sm_100", "bfloat16", "wgrad_per_sample", "64x32x32w8s2", 1, 1): 16,
    },
}

# The versions whose list is not complete, with the number of kernels that were compiled for it. With 3.8.0 these are
# all of `bench lowering --all`, and 36 on sm_86, sm_89 and sm_120. With 3.9.0 they are the likeliest to spill: most are
# of wgrad, or take with Triton 3.7.1 a number of registers that ptxas aims at.
COVERED = {"3.8.0": 1353, "3.9.0": 319}


def known_bytes(row: Row, known: dict[str, dict[Key, int]] | None = None) -> int:
    """Return the bytes of spills that KNOWN (or `known`) lists for the kernel of this row, or 0 if it lists none."""
    about: Any = tuple(row[name] for name in ("arch", "dtype", "kernel", "tile", "x_vector", "y_vector"))
    return (KNOWN if known is None else known).get(row["triton"], {}).get(about, 0)


def said(rows: Sequence[Row], known: dict[str, dict[Key, int]] | None = None) -> str:
    """Return lines that name the kernels that spill, and say which are known with this version of Triton."""
    known = KNOWN if known is None else known
    spilling, version = [row for row in rows if row["spill_bytes"]], rows[0]["triton"]
    if not spilling:
        return "spills: none."
    new = [row for row in spilling if row["spill_bytes"] > known_bytes(row, known)]
    count = f"{len(spilling) - len(new)} known with Triton {version}, {len(new)} new"
    if version not in known:
        count = f"none is listed, because no list is kept for Triton {version}"
    elif version in COVERED and new:
        count += f"; the list is not complete: {COVERED[version]} kernels were compiled for it"
    lines = [f"spills: {len(spilling)} kernels, {count}."]
    for row in sorted(spilling, key=lambda row: row not in new):
        before = known_bytes(row, known)
        kind = "known" if row not in new else f"new, known are {before}" if before else "new"
        lines.append(f"  {named(row)}: {row['spill_bytes']} bytes ({kind})")
    return "\n".join(lines)
