"""Which kernels `bench lowering` compiles: those that layers run with, or every shipped tile."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench.layers import Layer, select
from bench.lowering import offline
from bench.lowering.bounds import ARCHS
from bench.lowering.offline import KERNELS, Job, picked_jobs
from bench.run.contenders import DTYPES

# What is compiled by default, and what --all adds. The code for float16 is nearly that for bfloat16.
SOME_ARCHS, ALL_ARCHS = ["sm_90"], ["sm_80", "sm_90", "sm_100"]
SOME_DTYPES = ["bfloat16", "tf32", "float32"]
# Seconds that one CPU takes for a kernel: an estimate, for runs that compile too few kernels to tell.
SECONDS = 1.2


@dataclass(frozen=True)
class Selection:
    """What is compiled: for `archs` and `dtypes`, those of `kernels` and `tiles` (None: all) that `layers` need.

    With `every_tile`, that is every shipped tile, and those that the layers need for other alignments. `everywhere` and
    `host_descriptors` are those of `offline.jobs`.
    """

    archs: list[str]
    dtypes: list[str]
    kernels: list[str]
    layers: list[Layer]
    tiles: list[str] | None = None
    every_tile: bool = False
    everywhere: bool = False
    host_descriptors: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Selection":
        """Return what the arguments of the command select. --publish selects everything.

        --tile and --everywhere are about shipped tiles, so they imply all of these, but not the architectures of --all.
        """

        def chosen(given: list[str] | None, default: Sequence[str], every: Sequence[str]) -> list[str]:
            return list(every) if args.publish or "all" in (given or []) else list(given or default)

        return cls(
            archs=chosen(args.arch, ALL_ARCHS if args.all else SOME_ARCHS, ARCHS),
            dtypes=chosen(args.dtype, SOME_DTYPES, list(DTYPES)),
            kernels=chosen(args.kernel, KERNELS, KERNELS),
            layers=select(args.rows),
            tiles=args.tile,
            every_tile=bool(args.all or args.publish or args.everywhere or args.tile),
            everywhere=args.everywhere,
            host_descriptors=args.descriptors == "host",
        )

    def chosen(self) -> dict[Job, list[str]]:
        """Return the jobs that the layers launch, each with the names of its layers."""
        found: dict[Job, list[str]] = {}
        for arch, dtype in product(self.archs, self.dtypes):
            found |= picked_jobs(self.layers, dtype, arch, self.host_descriptors)
        return found

    def jobs(self) -> list[Job]:
        """Return the jobs, each once. Raise ValueError if there are none."""
        if self.every_tile:
            options = (self.archs, self.dtypes, self.kernels, self.layers, self.everywhere, self.host_descriptors)
            found = of_tiles(self.tiles, offline.jobs(*options))
        else:
            found = [
                job
                for job in self.chosen()
                if job.kernel in self.kernels and job.host_descriptors == self.host_descriptors
            ]
        if not found:
            how = "takes TMA descriptors of the host" if self.host_descriptors else "is launched by these layers"
            raise ValueError(f"none of these kernels {how}")
        return found


def what_all_adds(selection: Selection, done: Sequence[Job], compiled: int, seconds: float) -> str:
    """Return a line that says how many kernels --all adds to the jobs `done`, and an estimate of the time.

    The estimate takes the `seconds` for `compiled` kernels of this run, or SECONDS if these are too few.
    """
    archs = ALL_ARCHS if selection.archs == SOME_ARCHS else selection.archs
    every = replace(selection, archs=archs, every_tile=True).jobs()
    more = len(set(every) - set(done))
    each = seconds / compiled if compiled >= 50 else SECONDS / (os.cpu_count() or 1)
    minutes = max(1, round(more * each / 60))
    return (
        f"These tiles are picked for {len(selection.layers)} layers on {' '.join(selection.archs)}. "
        f"--all adds {more:,} kernels on {' '.join(archs)}: about {minutes} min (an estimate)."
    )


def of_tiles(names: list[str] | None, wanted: list[Job]) -> list[Job]:
    """Return the jobs in `wanted` whose tile has one of these names, and those without a tile.

    If `names` is None, return all jobs. Raise ValueError if a name is no job's tile.
    """
    if names is None:
        return wanted
    unknown = set(names) - {str(job.tile) for job in wanted}
    if unknown:
        raise ValueError(f"none of these kernels has the tile {' or '.join(sorted(unknown))}")
    return [job for job in wanted if job.tile is None or str(job.tile) in names]
