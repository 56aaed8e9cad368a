"""Which kernels `python -m bench lowering` compiles with which options, and what --all adds."""

import argparse

import pytest

from bench.layers import select
from bench.lowering.bounds import ARCHS
from bench.run.contenders import DTYPES

pytest.importorskip("triton")

from bench.lowering import command, offline
from bench.lowering.selection import Selection, what_all_adds


def selected(*options: str) -> Selection:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return Selection.of(parser.parse_args([*options]))


def test_by_default_the_tiles_that_layers_run_with_are_compiled() -> None:
    """On sm_90 in three dtypes, without host descriptors. Every other tile is left to --all."""
    layers = select("smoke")
    jobs = selected("--rows", "smoke").jobs()
    assert {job.arch for job in jobs} == {"sm_90"}
    assert {job.dtype for job in jobs} == {"bfloat16", "tf32", "float32"}
    assert {job.kernel for job in jobs} == set(offline.KERNELS)
    assert selected().layers == select("all")
    for dtype in ("bfloat16", "tf32", "float32"):
        picked = offline.picked_jobs(layers, dtype, "sm_90")
        assert [job for job in jobs if job.dtype == dtype] == list(picked)
    some = selected("--rows", "rn50_c3_3x3,rn50_c5_3x3", "--kernel", "dgrad", "--dtype", "bfloat16").jobs()
    assert 1 <= len(some) <= 2
    with pytest.raises(ValueError, match="none of these kernels is launched by these layers"):
        selected("--rows", "rn50_c3_3x3", "--kernel", "fprop_local").jobs()


@pytest.mark.parametrize(
    ("options", "archs", "every_tile"),
    [
        ([], ["sm_90"], False),
        (["--arch", "sm_80"], ["sm_80"], False),
        (["--all"], ["sm_80", "sm_90", "sm_100"], True),
        (["--all", "--arch", "sm_86"], ["sm_86"], True),
        (["--arch", "all"], ARCHS, False),
        (["--tile", "64x64x32w8s2"], ["sm_90"], True),
        (["--everywhere"], ["sm_90"], True),
        (["--publish"], ARCHS, True),
        (["--grid"], ["sm_90"], False),
    ],
)
def test_options_that_take_every_tile(options: list[str], archs: list[str], every_tile: bool) -> None:
    """--tile and --everywhere are about shipped tiles, --all also adds architectures, --publish takes everything."""
    selection = selected(*options)
    assert (selection.archs, selection.every_tile) == (archs, every_tile)
    assert len(selection.kernels) == len(offline.KERNELS)
    assert selection.dtypes == (list(DTYPES) if "--publish" in options else ["bfloat16", "tf32", "float32"])


def test_host_descriptors_of_picked_tiles() -> None:
    jobs = selected("--descriptors", "host", "--dtype", "bfloat16", "--rows", "smoke").jobs()
    assert jobs
    assert all(job.host_descriptors for job in jobs)
    with pytest.raises(ValueError, match="none of these kernels takes TMA descriptors of the host"):
        selected("--descriptors", "host", "--arch", "sm_80").jobs()


def test_what_all_adds_is_counted_and_its_time_estimated() -> None:
    """100 kernels took 2,000 seconds, so each of those that --all adds takes 20."""
    options = ["--arch", "sm_86", "--dtype", "bfloat16", "--kernel", "fprop", "--rows", "rn50_c3_3x3"]
    selection = selected(*options)
    done, every = selection.jobs(), selected(*options, "--all").jobs()
    more = len(set(every) - set(done))
    assert more >= 5
    line = what_all_adds(selection, done, 100, 2000.0)
    assert f"--all adds {more} kernels on sm_86: about {max(1, round(more / 3))} min" in line
    assert "an estimate" in line
    few = what_all_adds(selection, done, 1, 600.0)
    assert f"about {round(more * 600 / 60)} min" not in few
