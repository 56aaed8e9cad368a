"""What a slice gets to do its work with, and what it plans."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.device.current import Evidence
from bench.device.machine import Machine
from bench.device.schedule import Clock, Record


@dataclass(frozen=True)
class Planned:
    """A unit of a slice.

    - `missing` says in how many processes it is still to be done: 0 if it has a current result.
    - `seconds` is an estimate of what it takes in one process, without compilation.
    - `kernels` is how many kernels it needs at most, as an estimate.
    - `unit` is what is done, as the slice knows it.
    """

    name: str
    missing: int
    seconds: float
    kernels: int = 0
    unit: Any = None


@dataclass(frozen=True)
class Scene:
    """What the plan of a slice depends on: the machine, the evidence, and the options of the command."""

    machine: Machine
    evidence: Evidence
    options: argparse.Namespace


@dataclass(frozen=True)
class Work:
    """One process of one slice. `process` is its number, and `todo` has the units that it may do, in their order.

    `keep` saves the compiled kernels. `compiled` says that Triton's cache has all kernels that the units need.
    """

    scene: Scene
    clock: Clock
    keep: Callable[[], None]
    process: int
    todo: Sequence[Planned]
    compiled: bool = False

    @property
    def machine(self) -> Machine:
        return self.scene.machine

    @property
    def out(self) -> Path:
        folder: Path = self.scene.options.out
        return folder

    def file(self, name: str) -> Path:
        return self.out / name

    def begun(self, name: str, **about: Any) -> tuple[Record, list[Planned]]:
        """Begin or continue the record in the file `name`, and plan what is missing. Return both.

        `about` has the fields of the record beside those that all parts have.
        """
        given = {"environment": self.scene.evidence.now, "ceilings": {}} | about
        if self.machine.rehearsal:
            given["rehearsal"] = self.machine.rehearsal
        record = Record.continued(self.file(name), **given)
        todo = [each for each in self.todo if each.missing]
        record.plan(each.name for each in todo)
        return record, todo
