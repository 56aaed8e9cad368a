"""What has a current result, and so is not measured again.

The results are the committed ones in `bench/results`, and those that earlier calls left in the folder of `--out`. A
result is current

  a time       if the GPU was alike (`Gpu.alike`) and the L2 cache was cooled by reading. A row of our kernels also
               needs the same compiled kernels (`bench.kernel_identity`) and the tile that would be chosen now. A row of
               torch or of plain PyTorch needs the same versions of torch and cuDNN. Two processes must have measured
               it. With our kernels they must be of the same commit, because the host's code takes time, too. What was
               wrong or failed is measured again.
  exactness    if the architecture is the same, and so are the compiled kernels and what host descriptors describe.
  a test file  if the architecture is the same, all its tests ended and none failed. The file, `tests/support` and the
               compiled kernels must be the same. A file outside of `tests/kernels` also tests the host's code, so the
               whole package must be the same, too.
  a problem    (a random one) if the architecture and the compiled kernels are the same, and the result was right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import processes, results
from bench.results import RESULTS, Results, Row
from tritonconv.gpu import Gpu

# In how many processes each unit is timed.
PROCESSES = 2
OURS = ("triton", "triton-nchw")
# The only way of cooling the L2 cache that counts.
COLD = "read"


@dataclass(frozen=True)
class Evidence:
    """The records that count on a GPU. `now` is the environment of a record that would be begun now."""

    records: tuple[Results, ...]
    gpu: Gpu
    now: dict[str, Any]

    @classmethod
    def gathered(
        cls, gpu: Gpu, now: dict[str, Any], out: Path, rehearsal: str | None, committed: Path | None = RESULTS
    ) -> "Evidence":
        """Return the committed evidence, and what is in the folder `out`. Without `committed` it is only the latter.

        In `out`, only rehearsals count if this is one, and else only what is none.
        """
        found = [] if committed is None else [run for run in read_all(committed) if "rehearsal" not in run]
        found += [run for run in read_all(out) if bool(run.get("rehearsal")) == bool(rehearsal)]
        return cls(tuple(found), gpu, now)

    def of_architecture(self, part: str) -> list[Results]:
        """Return the records of a part that are from GPUs of the same architecture."""
        return [run for run in self.records if run.get("part") == part and self.same_architecture(run)]

    @cached_property
    def timed(self) -> dict[tuple[str, str, str, str], list[tuple[Row, Any, Results]]]:
        """The rows with times of GPUs alike, by their key: each with what tells processes apart, and its record."""
        found: dict[tuple[str, str, str, str], list[tuple[Row, Any, Results]]] = {}
        for number, run in enumerate(self.records):
            if run.get("part") in results.WITHOUT_TIMES or not self.alike(run):
                continue
            for row in run["rows"]:
                found.setdefault(results.key(row), []).append((row, (number, row.get("process")), run))
        return found

    def same_architecture(self, run: Results) -> bool:
        """Whether the GPU of a record has the architecture of this one. On a CPU, only rehearsals count."""
        if self.now.get("gpu") is None:
            return "rehearsal" in run
        return architecture_of(run) == self.gpu.architecture.name

    def alike(self, run: Results) -> bool:
        """Whether the GPU of a record is alike to this one."""
        name, multiprocessors = architecture_of(run), run["environment"].get("multiprocessors")
        if self.now.get("gpu") is None or name is None or multiprocessors is None:
            return self.now.get("gpu") is None and self.same_architecture(run)
        return self.gpu.alike(Gpu.of(name, multiprocessors))

    def processes(self, key: tuple[str, str, str, str], kernels: dict[str, str], tile: Callable[[], Any]) -> int:
        """Return how many processes have a current row of this key whose rows can be combined with new ones.

        PROCESSES or more of any one commit count, too. `tile` returns the tile that would be chosen now.
        """
        ours = key[2] in OURS
        seen: dict[Any, set[Any]] = {}
        for row, process, run in self.timed.get(key, []):
            about = run["environment"]
            if row["status"] == "skipped":
                current = about.get("package") == self.now.get("package")
            elif ours:
                current = row.get("kernels") == kernels and row.get("tile") == tile()
            else:
                current = all(about.get(name) == self.now.get(name) for name in ("torch", "cudnn"))
            if current and (row["status"] == "skipped" or (row["status"] == "ok" and cooled(row))):
                code = setup(about, key[2], row.get("commit"))
                seen.setdefault(code, set()).update([process] if "processes" not in row else range(row["processes"]))
        if any(len(each) >= PROCESSES for each in seen.values()):
            return PROCESSES
        return len(seen.get(setup(self.now, key[2], self.now.get("commit")), ()))


def setup(about: dict[str, Any], contender: str, commit: str | None) -> tuple[Any, ...]:
    """Return what must be equal in the environments of a contender's rows for `bench.processes` to combine them."""
    code = () if contender in processes.FOREIGN else (commit, about.get("package"))
    return *code, *(about.get(name) for name in processes.VERSIONS + processes.HOST)


def cooled(row: Row) -> bool:
    """Whether the L2 cache was cooled by reading. A CPU's caches are not cooled."""
    return row.get("cold") == COLD or row.get("how") == "wall"


def read_all(folder: Path) -> list[Results]:
    """Return the records in a folder. Samples, and runs at another batch, are left out."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in results.NO_RUNS]
    found = [results.read(path) for path in paths]
    return [run for run in found if not run.keys() & results.NO_EVIDENCE]


def architecture_of(run: Results) -> str | None:
    """Return the name of the architecture of a record's GPU, or None if it is from a CPU."""
    found: str | None = run.get("architecture") or run["environment"].get("architecture")
    return found
