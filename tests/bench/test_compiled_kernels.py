"""Every shipped tile, compiled offline, has good machine code.

It fits, and multiplies on tensor cores and copies asynchronously. It spills only what `bench/lowering/spills.py` lists.
Its loop is short. No kernel is worse than its row in `bench/results/lowering.json`.
"""

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.results import RESULTS, read_rows
from tests.support.processes import python
from tritonconv.gpu import ARCHITECTURES
from tritonconv.tiling.catalogue import FEW

pytest.importorskip("triton")

from bench.lowering.against import compared, regressions
from bench.lowering.spills import known_bytes

pytestmark = pytest.mark.oldest

COMMITTED = read_rows(RESULTS / "lowering.json")
# The kernels that take TMA descriptors that the host makes, compiled with the oldest Triton and with the pinned one.
HOST = read_rows(RESULTS / "lowering-host-descriptors.json")
KERNELS = ["fprop", "dgrad", "wgrad_with_bias", "wgrad"]
ARCHS, DTYPES = ("sm_80", "sm_90", "sm_100"), ("bfloat16", "tf32", "float32")
# The most instructions that all warps may take in one step of the main loop, in bfloat16 on sm_90. The first two
# entries gather pixels. The last two copy blocks of pixels by TMA, with half as many warps.
LEAN = {
    **{(kernel, "128x128x64w8s3"): 8 * 105 for kernel in ("fprop", "dgrad")},
    ("wgrad", "128x128x64w8s3"): 8 * 240,
    **{(kernel, "128x128x64w4s3:1.8.16"): 4 * 120 for kernel in ("fprop", "dgrad")},
    ("wgrad", "128x128x64w4s3:1.1.64"): 4 * 105,
}
# Versions of Triton that take more. In a step of dgrad, each warp takes 127 with 3.8.0, and 114 with 3.7.1.
NOT_AS_LEAN = {("3.8.0", "dgrad", "128x128x64w4s3:1.8.16"): 4 * 127}
# The tiles that `make test` compiles. `make test-all` compiles all.
SOME = [*dict.fromkeys(tile for _, tile in LEAN), "64x64x32w8s2"]


def lowered(folder: Path, arch: str, dtype: str, *more: str) -> list[dict[str, Any]]:
    """Return the rows that `python -m bench lowering` writes. `more` are further options.

    The command runs in a process of its own, because a process that interprets kernels cannot compile them.
    """
    path = folder / "rows.json"
    options = ["--all", "--arch", arch, "--dtype", dtype, "--processes", "1", "--json", str(path), *more]
    done = python("-m", "bench", "lowering", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


@pytest.mark.long
def test_a_tile_of_each_kind(tmp_path: Path) -> None:
    """For each kernel, three tiles pass: one gathers vectors, one gathers single elements, and one copies blocks."""
    rows = lowered(tmp_path, "sm_90", "bfloat16", "--kernel", *KERNELS, "sum_partials", "--tile", *SOME)
    check_committed(rows)
    assert {(row["kernel"], row["tile"]) for row in rows} >= {*LEAN, *product(KERNELS, ["64x64x32w8s2"])}
    assert any(row["default"] for row in rows)
    assert all(row["default"] == bool(row["layers"]) for row in rows)
    for kernel in KERNELS:
        check_lean(rows, kernel)
    for row in rows:
        check(row)


@pytest.mark.parametrize(
    "tiles", [pytest.param(["64x64x32w8s2"], marks=pytest.mark.long), pytest.param([], marks=pytest.mark.slow)]
)
def test_amd(tiles: list[str], tmp_path: Path) -> None:
    """For AMD, the tile that gathers single elements is compiled, or all tiles."""
    more = ["--tile", *tiles] if tiles else []
    rows = lowered(tmp_path, "gfx942", "bfloat16", "--kernel", *KERNELS[:3], *more)
    counts = Counter(row["kernel"] for row in rows)
    assert set(counts) == set(KERNELS[:3])
    assert min(counts.values()) >= (1 if tiles else 8)
    for row in rows:
        assert row["mma"].startswith("v_mfma"), row
        assert row["shared_bytes"] <= row["shared_bytes_promised"] <= ARCHITECTURES["gfx942"].shared_bytes, row
    assert regressions(rows, COMMITTED) == []


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("arch", "dtype", "everywhere"),
    [
        ("sm_90", "bfloat16", False),
        *((arch, dtype, True) for arch, dtype in product(ARCHS, DTYPES)),
    ],
)
def test_every_shipped_tile(arch: str, dtype: str, everywhere: bool, kernel: str, tmp_path: Path) -> None:
    """Each tile is compiled for its best alignment and those that layers need, or for all alignments (`everywhere`).

    wgrad without the bias's gradient is not compiled for every alignment: its code is a part of wgrad's with it.
    """
    more = ["wgrad", "sum_partials"] if kernel == "wgrad" else [kernel, *["--everywhere"] * everywhere]
    rows = lowered(tmp_path, arch, dtype, "--kernel", *more)
    check_committed(rows)
    assert [row["kernel"] for row in rows].count("sum_partials") == (kernel == "wgrad")
    assert any(row["tile"].startswith("128x128x" if dtype != "float32" else "128x64x") for row in rows)
    assert any(row["default"] for row in rows)
    assert all(row["default"] == bool(row["layers"]) for row in rows)
    if (arch, dtype) == ("sm_90", "bfloat16"):
        check_lean(rows, kernel)
    for row in rows:
        check(row)


def check_committed(rows: list[dict[str, Any]]) -> None:
    """Assert that no row is worse than its committed row.

    With the committed version of Triton, also assert that at least four rows have a committed row.
    """
    assert regressions(rows, COMMITTED) == []
    if rows[0]["triton"] == COMMITTED[0]["triton"]:
        assert compared(rows, COMMITTED) >= 4


def check(row: dict[str, Any]) -> None:
    """Assert that the machine code of a kernel for NVIDIA's GPUs, as its row describes it, is good."""
    if row["kernel"] == "sum_partials":
        assert row["spill_bytes"] == 0, row
    elif ":" in row["tile"]:
        check_blocks(row)
    else:
        check_gathered(row)


def check_gathered(row: dict[str, Any]) -> None:
    """Assert that the machine code of a tile that gathers pixels, from operands of any alignment, is good."""
    arch, dtype, kernel = row["arch"], row["dtype"], row["kernel"]
    itemsize = 2 if dtype == "bfloat16" else 4
    # fprop and dgrad load one side and store the other; wgrad loads both.
    sides = {"x": row["x_vector"], "y": row["y_vector"]}
    loaded = {"fprop": [sides["x"]], "dgrad": [sides["y"]]}.get(kernel, [*sides.values()])
    copies = (row["copy"] or "").split(", ")
    assert row["shared_bytes"] <= min(row["shared_bytes_promised"], ARCHITECTURES[arch].shared_bytes), row
    assert row["spill_bytes"] == known_bytes(row), row
    assert row["left_in_registers"] == 0, row
    assert bool(row["mma"]) != (dtype == "float32"), row
    assert (row["ffma_share"] is None) != (dtype == "float32"), row
    assert row["instructions_per_step"] > 0, row
    # On sm_80, if one side of wgrad cannot be copied asynchronously, neither is the other.
    asynchronous = min(loaded) if kernel == "wgrad" else max(loaded)
    assert bool(row["copy"]) >= (asynchronous * itemsize >= 4), row
    if kernel in ("fprop", "dgrad") and loaded[0] * itemsize == 16:
        assert any(name.endswith(".128") for name in copies), row
    if kernel.startswith("wgrad") and dtype == "bfloat16" and min(loaded) == 8:
        assert all(name.endswith((".128", ".64")) for name in copies), row


def check_lean(rows: list[dict[str, Any]], kernel: str) -> None:
    """Assert that the main loops of a kernel with 16-byte loads and stores take no more instructions than LEAN says.

    Tiles that are not in LEAN are not checked. NOT_AS_LEAN makes exceptions.
    """
    found = {(row["kernel"], row["tile"]): row for row in rows if row["x_vector"] == row["y_vector"] == 8}
    for (_, tile), most in ((key, most) for key, most in LEAN.items() if key[0] == kernel):
        row, warps = found[kernel, tile], int(tile.partition("w")[2][0])
        most = NOT_AS_LEAN.get((row["triton"], kernel, tile), most)
        assert warps * row["instructions_per_step"] <= most, row


def check_blocks(row: dict[str, Any]) -> None:
    """Assert that the machine code of a tile that copies blocks of pixels is good, and that TMA copies them."""
    assert ARCHITECTURES[row["arch"]].tma, row
    assert row["spill_bytes"] == known_bytes(row), row
    assert row["shared_bytes"] <= min(row["shared_bytes_promised"], ARCHITECTURES[row["arch"]].shared_bytes), row
    assert row["mma"], row
    assert row["left_in_registers"] == 0, row
    assert all(name.startswith("UTMALDG") for name in row["copy"].split(", ")), row


def test_the_committed_loops_are_lean() -> None:
    """The committed rows meet the same limits, and every kernel has TMA tiles that layers run with."""
    rows = [row for row in COMMITTED if (row["arch"], row["dtype"]) == ("sm_90", "bfloat16")]
    for kernel in KERNELS:
        check_lean(rows, kernel)
    blocks = [row for row in COMMITTED if ":" in row["tile"]]
    for row in blocks:
        check_blocks(row)
    assert {row["arch"] for row in blocks} == {"sm_90", "sm_100", "sm_120"}
    chosen = {row["kernel"] for row in rows if ":" in row["tile"] and row["default"]}
    assert chosen == set(KERNELS)


# Compiles the variants of `bench.lowering.variants` that are called NAMES, for the architecture CAPABILITY. For each it
# prints what the tests look at.
COMPILE_VARIANTS = """
import json, re
from triton.backends.compiler import GPUTarget
from bench.lowering import assembly
from bench.lowering.offline import compiled
from bench.lowering.variants import started
from tritonconv.launch.descriptors import HostDescriptor

found = {}
for operator, name, launch in started():
    if name in NAMES:
        binary = compiled(launch.kernel, launch.arguments, GPUTarget("cuda", CAPABILITY, 32))
        listing, usage = assembly.read_cubin(binary.asm["cubin"])
        found[f"{operator} {name}"] = dict(
            spilled=assembly.spill_bytes(listing, usage),
            scratch=binary.metadata.global_scratch_size,
            given=sum(isinstance(value, HostDescriptor) for value in launch.arguments.values()),
            parameters=len(re.findall(r"\\.param \\.align 64 \\.b8 \\w+\\[128\\]", binary.asm["ptx"])),
            loads=listing.kinds(re.compile("UTMALDG")),
            stores=listing.kinds(re.compile("UTMASTG")),
        )
print(json.dumps(found))
"""


def compiled_variants(capability: int, *names: str) -> dict[str, dict[str, Any]]:
    """Return what COMPILE_VARIANTS prints. A process that interprets kernels cannot compile them."""
    done = python("-c", f"CAPABILITY, NAMES = {capability}, {names}\n{COMPILE_VARIANTS}")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


# Variants that take the host's descriptors. fprop and dgrad store blocks of results at once, in halves, or by elements.
# wgrad has each kind of block.
SIDES = ["host tma", "host tma groups", "host tma folded", "host tma folded, halves", "host tma stride"]
BLOCKS = ["host tma images", "host tma whole rows", "host tma rows, groups, stride", "host tma images, stride"]


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        pytest.param(90, [*SIDES, *BLOCKS, "host tma whole rows, stride"], marks=pytest.mark.long),
        pytest.param(100, [*SIDES[2:], "host tma whole rows, stride"], marks=pytest.mark.slow),
    ],
    ids=["sm_90", "sm_100"],
)
def test_the_hosts_descriptors_are_parameters(capability: int, names: list[str]) -> None:
    """Kernels that take the host's descriptors need no scratch memory, spill nothing, and copy by TMA."""
    found = compiled_variants(capability, *names)
    assert {name.partition(" ")[2] for name in found} == set(names)
    for name, kernel in found.items():
        operator, *_ = name.split()
        elements = name == "dgrad host tma stride"  # then threads store the results
        assert kernel["given"] == kernel["parameters"] == (2 if elements or operator == "wgrad" else 3), name
        assert (kernel["spilled"], kernel["scratch"]) == (0, 0), name
        assert kernel["loads"], name
        assert bool(kernel["stores"]) == (operator != "wgrad" and not elements), name


@pytest.mark.long
def test_programs_build_their_descriptors_in_scratch_memory() -> None:
    """Without descriptors from the host. In "tma stride", fprop builds one for each sub-image."""
    names = ("tma stride", "tma rows")
    found = compiled_variants(90, *names)
    assert list(found) == ["fprop tma stride", "dgrad tma stride", "wgrad tma rows"]
    for name, kernel in found.items():
        assert (kernel["spilled"], kernel["given"], kernel["parameters"]) == (0, 0, 0), name
        assert kernel["scratch"] >= 2 * 128, name
        assert kernel["loads"], name


def check_host(rows: list[dict[str, Any]]) -> None:
    """Assert that kernels with the host's descriptors spill nothing, and are not worse than with programs' ones.

    Their steps may take more instructions, as far as `regressions` says.
    """
    assert regressions(rows, COMMITTED) == []
    for row in rows:
        assert (row["host_descriptors"], row["spill_bytes"]) == (True, 0), row
        check_blocks(row)


def test_the_committed_kernels_with_the_hosts_descriptors() -> None:
    check_host(HOST)
    assert {row["triton"] for row in HOST} == {"3.6.0", COMMITTED[0]["triton"]}
    assert {(row["arch"], row["dtype"]) for row in HOST} == set(product(["sm_90", "sm_100"], ["bfloat16", "tf32"]))
    assert {row["kernel"] for row in HOST if row["default"]} == set(KERNELS)
    known = {(row["arch"], row["kernel"], row["tile"]) for row in HOST if row["triton"] == COMMITTED[0]["triton"]}
    blocks = [row for row in COMMITTED if ":" in row["tile"] and row["arch"] in ("sm_90", "sm_100")]
    shipped = {(row["arch"], row["kernel"], row["tile"]) for row in blocks if not row["default"]}
    assert len(shipped) >= 20
    assert shipped <= known


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), [*product(("sm_90", "sm_100"), ("bfloat16", "tf32"))])
def test_every_tile_with_the_hosts_descriptors(arch: str, dtype: str, tmp_path: Path) -> None:
    rows = lowered(tmp_path, arch, dtype, "--kernel", *KERNELS, "--descriptors", "host")
    check_host(rows)
    assert regressions(rows, HOST) == []
    assert compared(rows, HOST) > 20 or rows[0]["triton"] not in {row["triton"] for row in HOST}


LOCAL = ["fprop_local", "dgrad_local", "wgrad_local"]
PER_SAMPLE = ["fprop_per_sample", "dgrad_per_sample", "wgrad_per_sample"]
DYNAMIC = ["fprop_dynamic", "dgrad_dynamic", "wgrad_dynamic"]
SOME_LOCAL = ["128x16x16w1s4", "1x16x16w1s4", "16x128x32w4s3", "16x128x1w4s2"]


def without_tensor_cores(row: dict[str, Any]) -> bool:
    """Whether the row's tile, which is for a weight of each location, takes too few images at once for tensor cores."""
    M, _, K = (int(extent) for extent in row["tile"].split("w")[0].split("x"))
    return (K if row["kernel"].startswith("wgrad") else M) <= FEW


@pytest.mark.parametrize(
    ("arch", "dtype", "tiles"),
    [
        pytest.param("sm_90", "bfloat16", SOME_LOCAL, marks=pytest.mark.long),
        *(pytest.param(arch, dtype, [], marks=pytest.mark.slow) for arch in ARCHS for dtype in DTYPES),
    ],
)
def test_a_weight_of_each_location(arch: str, dtype: str, tiles: list[str], tmp_path: Path) -> None:
    """For each kernel, a tile with tensor cores and one without are compiled, or all tiles."""
    rows = lowered(tmp_path, arch, dtype, "--kernel", *LOCAL, *DYNAMIC, *["--tile", *tiles] * bool(tiles))
    assert regressions(rows, COMMITTED) == []
    assert {row["kernel"] for row in rows} == {*LOCAL, *DYNAMIC}
    itemsize = 2 if dtype == "bfloat16" else 4
    assert {row["kernel"] for row in rows if row["default"]} == set(LOCAL)
    for row in rows:
        few = without_tensor_cores(row)
        loaded = {"fprop": row["x_vector"], "dgrad": row["y_vector"]}.get(row["kernel"].partition("_")[0], 0)
        assert row["shared_bytes"] <= min(row["shared_bytes_promised"], ARCHITECTURES[arch].shared_bytes), row
        assert row["spill_bytes"] == known_bytes(row), row
        assert bool(row["mma"]) != (few or dtype == "float32"), row
        assert few >= (row["kernel"] in DYNAMIC), row
        if loaded * itemsize == 16:
            assert any(name.endswith(".128") for name in (row["copy"] or "").split(", ")), row


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_weight_of_each_sample(arch: str, dtype: str, tmp_path: Path) -> None:
    """The offset of a sample is computed in 64 bits, and registers still suffice."""
    rows = lowered(tmp_path, arch, dtype, "--kernel", *PER_SAMPLE)
    assert regressions(rows, COMMITTED) == []
    for row in rows:
        assert row["shared_bytes"] <= min(row["shared_bytes_promised"], ARCHITECTURES[arch].shared_bytes), row
        assert row["spill_bytes"] == known_bytes(row), row
        assert bool(row["mma"]) != (dtype == "float32"), row
