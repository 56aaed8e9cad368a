"""Which kernels the options of `python -m bench lowering` choose."""

import argparse
from typing import Any

import pytest

pytest.importorskip("triton")

from bench.layers import read
from bench.lowering import command, offline, own
from bench.lowering.bounds import ARCHS
from bench.lowering.scope import Scope
from bench.own_layer import EXAMPLE, parse
from bench.run.contenders import DTYPES

STRIDED = "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16"


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def scope(*words: str) -> Scope:
    return Scope.of(options(*words))


@pytest.mark.parametrize(
    ("words", "archs", "dtypes", "all_tiles"),
    [
        ("", ["sm_90"], ["bfloat16", "tf32"], False),
        ("--all", ["sm_80", "sm_90", "sm_100"], ["bfloat16", "tf32", "float32"], True),
        ("--all --arch sm_86", ["sm_86"], ["bfloat16", "tf32", "float32"], True),
        ("--arch all --dtype float16", ARCHS, ["float16"], False),
        ("--tile 128x128x64w8s3", ["sm_90"], ["bfloat16", "tf32"], True),
        ("--everywhere --arch sm_80", ["sm_80"], ["bfloat16", "tf32"], True),
        ("--publish", ARCHS, list(DTYPES), True),
        ("--publish --arch sm_80", ARCHS, list(DTYPES), True),
        ("--against --grid", ["sm_90"], ["bfloat16", "tf32"], False),
    ],
)
def test_what_options_choose(words: str, archs: list[str], dtypes: list[str], all_tiles: bool) -> None:
    found = scope(*words.split())
    assert (found.archs, found.dtypes, found.all_tiles) == (archs, dtypes, all_tiles)
    assert found.kernels == list(offline.KERNELS)


def test_by_default_the_kernels_that_layers_launch() -> None:
    layers = read()
    picked = [job for dtype in ("bfloat16", "tf32") for job in offline.picked_jobs(layers, dtype, "sm_90")]
    found = scope().jobs(layers)
    assert found == picked
    assert len(set(found)) == len(found)
    every = Scope.of_all(options()).jobs(layers)
    assert set(found) < set(every)
    assert len(every) > 5 * len(found)
    some = scope("--kernel", "fprop").jobs(layers)
    assert some == [job for job in found if job.kernel == "fprop"]
    host = scope("--descriptors", "host").jobs(layers)
    assert host
    assert all(job.host_descriptors and job.tile is not None and job.tile.uses_tma for job in host)


def test_where_there_is_nothing_to_compile_the_reason_is_said() -> None:
    assert scope("--kernel", "wgrad_dynamic").jobs(read()[:3]) == []
    assert "--all" in scope("--kernel", "wgrad_dynamic").why_nothing()
    host = scope("--descriptors", "host", "--arch", "sm_80")
    assert host.jobs(read()) == []
    assert "the host makes TMA descriptors for none" in host.why_nothing()


@pytest.mark.parametrize("more", ["--all", "--everywhere", "--tile 1", "--rows smoke", "--dtype tf32", "--grid"])
def test_a_layer_of_ones_own_has_its_own_tiles_and_dtype(more: str) -> None:
    scope("--layers", EXAMPLE, "--arch", "sm_80", "--kernel", "fprop")
    scope("--layers", *more.split())
    with pytest.raises(ValueError, match="a layer of your own"):
        scope("--layers", EXAMPLE, *more.split())
    with pytest.raises(ValueError, match="--publish compiles"):
        scope("--layers", EXAMPLE, "--publish")


def constants(job: offline.Job) -> dict[str, Any]:
    return {name: value for name, value in offline.launch_of(job).arguments.items() if name.isupper()}


def test_what_ones_own_layer_launches_is_compiled_exactly() -> None:
    """The kernels of a small problem have other constants: they have no stride."""
    mine = parse(STRIDED)
    jobs = own.jobs([mine], ["sm_90"], offline.KERNELS, host_descriptors=False)
    picked = offline.picked_jobs([mine.layer], "bfloat16", "sm_90")
    assert [job.kernel for job in jobs] == [job.kernel for job in picked]
    assert {job.kernel for job in jobs} >= {"fprop", "dgrad", "wgrad", "wgrad_with_bias"}
    for job, small in zip(jobs, picked, strict=True):
        assert job.geometry == mine.layer.geometry
        if job.kernel in ("fprop", "dgrad"):
            gpu = offline.gpu_of_data_sheet("sm_90")
            (launch,) = offline.plan_for(job.operator, "bfloat16", mine.layer.geometry, gpu, bias=True).launches
            assert offline.launch_of(job).programs == launch.programs
            assert constants(job) == {name: value for name, value in launch.arguments.items() if name.isupper()}
            assert constants(job) != constants(small)
    assert own.jobs([mine, mine], ["sm_90"], ["dgrad"], host_descriptors=False) == [
        job for job in jobs if job.kernel == "dgrad"
    ]
