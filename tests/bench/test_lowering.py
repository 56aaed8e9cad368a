"""`python -m bench lowering`: its jobs and rows, and the bounds in them."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from bench.lowering import assembly
from bench.lowering.bounds import bound_tflops, occupancy, products_of

pytest.importorskip("triton")

from bench.lowering import command, kept, offline
from bench.lowering import rows as lowering
from bench.lowering.machine_code import Code, Loop
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import ARCHITECTURES
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.tiling.catalogue import images
from tritonconv.tiling.tile import Tile


@pytest.mark.parametrize(
    ("arch", "registers", "warps", "shared", "blocks", "of"),
    [
        ("sm_90", 128, 8, 0, 2, 64),  # 65,536 registers are 16 warps of 4,096
        ("sm_90", 138, 8, 0, 1, 64),  # 138 * 32 rounds up to 4,608: 14 warps
        ("sm_90", 32, 4, 98_432, 2, 64),  # 228 KiB over 98,432 + 1,024 bytes
        ("sm_86", 32, 4, 0, 12, 48),  # 48 warps
        ("sm_89", 16, 1, 0, 24, 48),  # 24 blocks
        ("gfx942", 128, 4, 0, 4, 32),  # 512 registers a lane and SIMD: 4 waves on each of 4 SIMDs
    ],
)
def test_occupancy(arch: str, registers: int, warps: int, shared: int, blocks: int, of: int) -> None:
    assert occupancy(ARCHITECTURES[arch], registers, warps, shared) == pytest.approx(blocks * warps / of)


def test_the_bound_is_the_data_sheets_rate() -> None:
    """An H100's tensor cores form 128x128x64 products in 512 cycles, which is 989 TFLOP/s."""
    architecture = ARCHITECTURES["sm_90"]
    step = 128 * 128 * 64
    assert step / products_of(architecture, "bfloat16") == 512
    assert bound_tflops(architecture, step, 512) == pytest.approx(989, rel=0.01)
    assert bound_tflops(architecture, step, 1024) == pytest.approx(989 / 2, rel=0.01)


def loop(**counts: int) -> Loop:
    """Return the counts of a listing that is one loop with these numbers of instructions of each kind."""
    kinds = {"hgmma": "HGMMA.64x128x16.F32.BF16", "ffma": "FFMA", "other": "IADD3"}
    body = [assembly.Instruction(kinds[kind], None) for kind, count in counts.items() for _ in range(count)]
    return Loop.of(assembly.Listing([*body[:-1], assembly.Instruction(body[-1].opcode, "top")], {"top": 0}))


TILE = Tile(128, 128, 64, 8, 3)


def job(arch: str = "sm_90", dtype: str = "bfloat16", tile: Tile = TILE) -> offline.Job:
    return offline.Job("fprop", dtype, offline.Memory(8, 8), tile, arch)


def test_instructions_for_each_cycle_of_the_tensor_cores() -> None:
    """An H100's tensor cores take 512 cycles for 128x128x64. The loop's 8 warps issue 98 instructions each, or 400."""
    few = lowering.main_loop(loop(hgmma=4, other=94), job())
    assert (few["instructions_per_step"], few["instructions_per_mma_cycle"]) == (98, round(98 * 8 / 512, 2))
    assert (few["ffma_share"], few["bound_tflops"]) == (None, 989)
    many = lowering.main_loop(loop(hgmma=4, other=396), job())
    assert many["bound_tflops"] == round(989.4 * 512 / (400 * 8 / 4))
    twice = lowering.main_loop(loop(hgmma=8, other=188), job())
    assert twice == few


def test_fmas_are_a_share_of_the_instructions() -> None:
    """64x64x16 products by 256 threads are 256 FMAs each; an A100 issues FMAs for 64 threads a cycle, an H100 128."""
    small = Tile(64, 64, 16, 8, 4)
    found = [lowering.main_loop(loop(ffma=256, other=64), job(arch, "float32", small)) for arch in ("sm_80", "sm_90")]
    assert [each["ffma_share"] for each in found] == [0.8, 0.8]
    assert [each["instructions_per_mma_cycle"] for each in found] == [None, None]
    # 256 FMAs of 8 warps in 1024 cycles, on the H100 in 512, but 320 instructions of 8 warps in 640 at least.
    assert [each["bound_tflops"] for each in found] == [
        round(2 * 65536 * 108 * 1.41 / 1024 / 1e3),
        round(2 * 65536 * 132 * 1.83 / 640 / 1e3),
    ]


def test_what_has_no_loop_has_no_bound() -> None:
    empty = lowering.main_loop(Loop.of(assembly.Listing([], {})), job())
    assert set(empty.values()) == {None}


def test_every_kernel_has_jobs_and_layers_their_tiles() -> None:
    from bench.layers import read

    layers = read()
    found = offline.jobs(["sm_80", "sm_90"], ["bfloat16"], offline.KERNELS, layers, everywhere=False)
    assert {job.kernel for job in found} == set(offline.KERNELS)
    assert {job.arch for job in found} == {"sm_80", "sm_90"}
    assert len(set(found)) == len(found)
    chosen = offline.picked_jobs(layers, "bfloat16", "sm_90")
    assert set(chosen) <= set(found)
    for kernel in offline.KERNELS:
        named = [name for job, names in chosen.items() if job.kernel == kernel for name in names]
        of_its_kind = [layer.name for layer in layers if layer.geometry.varies == offline.varies_of(kernel)]
        if kernel == "sum_partials":  # not launched if wgrad writes an unsplit sum directly
            assert 0 < len(named) < len(of_its_kind)
            assert set(named) < set(of_its_kind)
        else:
            assert sorted(named) == sorted(of_its_kind), kernel
    everywhere = offline.jobs(["sm_90"], ["bfloat16"], ["fprop"], [], everywhere=True)
    assert {job.memory for job in everywhere} == set(offline.memories("fprop", 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32"])
def test_only_kernels_that_copy_blocks_take_the_hosts_descriptors(dtype: str) -> None:
    """Every shipped TMA tile of every kernel has a job, and what is compiled for it has the host's descriptors."""
    options = (["sm_80", "sm_90", "sm_100"], [dtype], offline.KERNELS, [], False)
    programs, host = offline.jobs(*options), offline.jobs(*options, host_descriptors=True)
    expected = [replace(job, host_descriptors=True) for job in programs if job.tile and job.tile.uses_tma]
    assert host == expected
    operators = {job.operator for job in host}
    assert operators == ({"fprop", "dgrad", "wgrad"} if dtype == "bfloat16" else {"fprop", "dgrad"})
    for job in host:
        given = offline.for_memory(job).arguments
        assert isinstance(given["image" if job.operator != "dgrad" else "features"], HostDescriptor)
        assert given["x_ptr"] is given["y_ptr"] is None
        assert given.get("weight_ptr") is None
    for job in expected[::9]:
        given = offline.for_memory(replace(job, host_descriptors=False)).arguments
        assert not any(isinstance(value, HostDescriptor) for value in given.values())


def test_layers_are_counted_where_the_host_makes_their_descriptors() -> None:
    """Layers with a stride that does not divide the image, and blocks that overhang, keep their programs' descriptors.

    So do all layers if programs make the descriptors, whatever the architecture's row says.
    """
    from bench.layers import read

    layers = read()
    chosen = offline.picked_jobs(layers, "bfloat16", "sm_90", host_descriptors=True)
    host = {job.kernel: names for job, names in chosen.items() if job.host_descriptors}
    assert set(host) == {"fprop", "dgrad", "wgrad", "wgrad_with_bias"}
    left = [job for job in chosen if job.tile and job.tile.uses_tma and not job.host_descriptors]
    assert {job.operator for job in left} <= {"fprop", "wgrad"}
    assert {job.operator for job in left} >= {"wgrad"}
    wanted = offline.jobs(["sm_90"], ["bfloat16"], offline.KERNELS, layers, False, host_descriptors=True)
    assert all(job.host_descriptors for job in wanted)
    assert {job for job in chosen if job.host_descriptors} <= set(wanted)
    programs = offline.picked_jobs(layers, "bfloat16", "sm_90")
    assert not any(job.host_descriptors for job in programs)


def test_only_tiles_of_some_names() -> None:
    wanted = offline.jobs(["sm_90"], ["bfloat16"], ["fprop", "sum_partials"], [], everywhere=False)
    assert command.of_tiles(None, wanted) == wanted
    some = command.of_tiles(["128x128x64w8s3"], wanted)
    assert [(job.kernel, str(job.tile)) for job in some] == [("fprop", "128x128x64w8s3"), ("sum_partials", "None")]
    with pytest.raises(ValueError, match="none of these kernels has the tile 128x128"):
        command.of_tiles(["128x128x64w8s3", "128x128"], wanted)


def test_kernels_are_named_by_operator_and_what_the_weight_varies_over() -> None:
    names = ("wgrad_with_bias", "sum_partials", "dgrad_local", "fprop_per_sample", "wgrad_dynamic")
    assert [offline.operator_of(name) for name in names] == ["wgrad", "wgrad", "dgrad", "fprop", "wgrad"]
    assert [offline.varies_of(name) for name in names] == ["", "", "p q", "b", "b p q"]


def test_dependent_launches_are_compiled_where_the_row_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "sm_90", replace(ARCHITECTURES["sm_90"], dependent_launch=True))
    launches = [offline.for_memory(offline.adding("bfloat16", arch)) for arch in ("sm_90", "sm_80")]
    assert [each.arguments.get("launch_pdl", False) for each in launches] == [True, False]
    assert [each.arguments["DEPENDENT_LAUNCH"] for each in launches] == [True, False]


@pytest.mark.parametrize("how", list(offline.VARYING))
def test_what_is_launched_of_weights_that_vary(how: str) -> None:
    """For every alignment, the bias varies as the weight does, and wgrad finds no gradient of a bias."""
    for kernel in (f"{operator}_{how}" for operator in ("fprop", "dgrad", "wgrad")):
        for job in offline.shipped_jobs(kernel, "bfloat16", "sm_90", everywhere=True)[::7]:
            given = offline.for_memory(job).arguments
            assert (given["PER_SAMPLE"], given["PER_LOCATION"]) == ("b" in job.varies, "p" in job.varies)
            assert given.get("BIAS_VARIES", False) == (job.operator != "wgrad")
            assert given.get("bias_partials_ptr") is None
            assert how != "dynamic" or images(job.tile, job.operator) == 1


def test_fmas_are_bound_by_their_own_rate() -> None:
    """Without tensor cores, an H100 takes 64 cycles for 8x32x32 products of bfloat16, as for float32."""
    tile = Tile(8, 32, 32, 4, 4)
    found = [lowering.main_loop(loop(ffma=64), job(dtype=dtype, tile=tile)) for dtype in ("bfloat16", "float32")]
    assert [each["bound_tflops"] for each in found] == [62, 62]
    assert [each["instructions_per_mma_cycle"] for each in found] == [None, None]


def test_what_does_not_compile_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What does not compile is not kept either."""
    good, bad = offline.jobs(["sm_90"], ["bfloat16"], ["fprop"], [], everywhere=False)[:2]
    code = Code(120, 0, 1000, 8, None, 0, None, Loop())

    def code_of(job: offline.Job) -> Code:
        if job == bad:
            raise RuntimeError("ptxas died\nof old age")
        return code

    monkeypatch.setattr(lowering, "code_of", code_of)
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    assert lowering.code_or_fail(good, "one") == code
    failure = lowering.code_or_fail(bad, "other")
    assert isinstance(failure, lowering.Failure)
    assert failure == f"fprop {bad.tile} bfloat16 sm_90 x{bad.memory.x} y{bad.memory.y}: ptxas died"
    assert (kept.read("one"), kept.read("other")) == (code, None)


@pytest.mark.parametrize(
    ("arch", "taken", "promised", "fits"),
    [
        ("sm_86", 101_376, 101_376, True),
        ("sm_86", 101_377, 200_000, False),
        ("sm_90", 120_001, 120_000, False),
        ("sm_90", 100, None, True),
        ("gfx942", 65_537, 70_000, False),
    ],
)
def test_what_takes_more_shared_memory_than_there_is_does_not_fit(
    arch: str, taken: int, promised: int | None, fits: bool
) -> None:
    row = dict(kernel="fprop", tile="t", dtype="tf32", arch=arch, x_vector=1, y_vector=1, shared_bytes=taken)
    reason = lowering.unfit(row | {"shared_bytes_promised": promised})
    assert (reason is None) == fits
    assert fits or f"{taken} bytes of shared memory" in str(reason)


def test_choices_are_what_would_be_launched() -> None:
    """One row for each operator of each layer, with the plan's tile. No tile multiplies less than the layer needs."""
    from bench.layers import select
    from bench.lowering.choices import choices

    layers, gpu = select("smoke"), offline.gpu_of_data_sheet("sm_90")
    rows = list(choices(layers, "bfloat16", gpu))
    assert [row[:2] for row in rows] == [(layer.name, operator) for layer in layers for operator in OPERATORS]
    for layer, operator, tile, pixels, blocks, rounds, steps, full, limit in rows:
        geometry = next(each.geometry for each in layers if each.name == layer)
        plan = offline.plan_for(operator, "bfloat16", geometry, gpu)
        programs = plan.launches[0].programs
        assert tile == plan.tile
        assert blocks == programs or (tile.uses_tma and operator != "wgrad" and blocks > programs)
        assert pixels == ("in blocks" if tile.uses_tma else "gathered")
        assert (rounds, steps) >= (1, 1)
        assert 0 <= float(full) <= 1 or layer.endswith("_s2")  # its flops count taps in the padding
        assert limit in ("products", "L2", "instructions", "memory", "waiting")
    dense = {row[3] for row in rows if row[0] in ("rn50_c5_3x3", "sd15_unet_1280_at_16")}
    assert dense == {"in blocks"}


def test_choices_are_printed_without_compiling(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    monkeypatch.setattr(command, "lowered", lambda *_: pytest.fail("there is nothing to compile"))
    options = [
        "--layers",
        "--rows",
        "rn50_c3_3x3,local_3x3_64_at_14",
        "--arch",
        "sm_80",
        "sm_90",
        "--dtype",
        "bfloat16",
    ]
    assert command.main(parser.parse_args(options)) == 0
    printed = capsys.readouterr().out
    assert printed.count("\nrn50_c3_3x3 ") == printed.count("\nlocal_3x3_64_at_14 ") == 6
    assert "sm_80, bfloat16\n" in printed
    assert printed.index("Nothing here") < printed.index("sm_80, bfloat16\n")
