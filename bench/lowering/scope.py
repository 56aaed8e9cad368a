"""What a call of `bench lowering` compiles, as its options say: which tiles of which kernels, and for which GPUs."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from bench.layers import Layer
from bench.lowering.bounds import ARCHS
from bench.lowering.offline import KERNELS, Job, jobs, launched_jobs
from bench.run.contenders import DTYPES

# The architectures, dtypes and kernels by default, and those with --all.
FEW = (["sm_90"], ["bfloat16", "tf32"], KERNELS)
MANY = (["sm_80", "sm_90", "sm_100"], ["bfloat16", "tf32", "float32"], KERNELS)


@dataclass(frozen=True)
class Scope:
    """Which kernels are compiled: all shipped tiles (`all_tiles`), or only those that layers run with."""

    archs: list[str]
    dtypes: list[str]
    kernels: list[str]
    all_tiles: bool
    everywhere: bool
    host_descriptors: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return the scope that the options name. Raise ValueError if they contradict each other.

        --tile and --everywhere are about shipped tiles. So they look at all of these, but not at more architectures.
        """
        refuse_contradictions(args)
        defaults = MANY if args.all else FEW
        options = zip((args.arch, args.dtype, args.kernel), defaults, (ARCHS, DTYPES, KERNELS), strict=True)
        archs, dtypes, kernels = (
            list(every) if args.publish or "all" in (chosen or []) else list(chosen or default)
            for chosen, default, every in options
        )
        every_tile = bool(args.all or args.publish or args.tile or args.everywhere)
        return cls(archs, dtypes, kernels, every_tile, args.everywhere, args.descriptors == "host")

    @classmethod
    def of_all(cls, args: argparse.Namespace) -> Self:
        """Return the scope of the same options with --all."""
        return cls.of(argparse.Namespace(**(vars(args) | {"all": True})))

    def jobs(self, layers: Sequence[Layer]) -> list[Job]:
        """Return the jobs: those that `layers` launch, and with `all_tiles` those of all shipped tiles."""
        about = (self.archs, self.dtypes, self.kernels, layers)
        if self.all_tiles:
            return jobs(*about, everywhere=self.everywhere, host_descriptors=self.host_descriptors)
        return launched_jobs(*about, host_descriptors=self.host_descriptors)

    def why_nothing(self) -> str:
        """Return why there are no jobs."""
        if self.host_descriptors:
            return "the host makes TMA descriptors for none of these kernels"
        return "no layer runs with these kernels: --all compiles all shipped tiles"


def refuse_contradictions(args: argparse.Namespace) -> None:
    """Raise ValueError if two options contradict each other."""
    host_descriptors, given = args.descriptors == "host", bool(args.layers)
    if args.publish and (args.everywhere or args.tile or args.rows != "all" or host_descriptors or given):
        raise ValueError(
            "--publish compiles all layers and tiles, with programs' descriptors: "
            "leave out --everywhere, --tile, --rows, --layers and --descriptors"
        )
    if given and (args.all or args.everywhere or args.tile or args.rows != "all" or args.dtype or args.grid):
        raise ValueError(
            "a layer of your own has its tiles and its dtype: leave out --all, --everywhere, --tile, --rows, --dtype "
            "and --grid"
        )
