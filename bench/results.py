"""The record of a run: rows, ceilings and the environment, as JSON that is whole at any moment.

A file is an object with
  `environment`  what it ran on and what with: GPU, driver, versions, commit, the name of each operator's kernels
                 (`bench.kernel_identity`)
  `ceilings`     TFLOP/s of a large matrix product, by dtype, and GB/s of a large copy and of copies within the L2
                 cache, measured in the same run
  `rows`         one object per layer, pass, contender and dtype (`bench.run.measure`)
  `complete`     whether everything that was planned is in it
  `batch`        how many images every layer had, if `pytest bench --batch` set it
and `rehearsal` or `sample` if it must not be taken for evidence. What `pytest bench --benchmark-json` writes is read
too: its rows are the benchmarks' `extra_info`.
"""

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import kernel_identity

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"

# Files beside the records that are none: what was compiled without a GPU, and which kernels are the same.
NO_RUNS = ("lowering.json", "kernels.json")
# Parts of `bench device`, and the times of `bench tune`, whose records are no times of layers by contenders.
WITHOUT_TIMES = ("correctness", "profile", "descriptors", "tiles")
# Marks of a record that the README's table leaves out: made-up samples, and layers at another batch than their own.
NO_EVIDENCE = {"sample", "batch"}

Row = dict[str, Any]
Results = dict[str, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` at the end of the block: it, or the old one, but never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


def lines(rows: Iterable[Row]) -> str:
    """A JSON list with one row to a line, so that two files can be compared line by line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def save(path: Path, results: Results) -> None:
    head = {name: value for name, value in results.items() if name != "rows"}
    write(path, f'{json.dumps(head, indent=1)[:-2]},\n "rows": {lines(results["rows"])}\n}}\n')


def read(path: Path) -> Results:
    """What `save` or pytest-benchmark wrote. Raises ValueError if it is neither."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError:
        raise ValueError(f"{path} is no JSON") from None
    if isinstance(found, dict) and "tritonconv" in found:
        rows = [each["extra_info"] for each in found["benchmarks"] if each["extra_info"]]
        found = {**found["tritonconv"], "rows": [*rows, *found["tritonconv_unmeasured"]]}
    if not isinstance(found, dict) or not {"environment", "ceilings", "rows"} <= set(found):
        raise ValueError(f"{path} holds no results of tritonconv's benchmarks")
    known = kernel_identity.read()
    for row in found["rows"]:
        if row.get("kernels"):
            row["kernels"] = kernel_identity.canonical(row["kernels"], known)
    return found


def load(path: Path) -> Results:
    """A record of times. Raises ValueError for a record of something else, or what is none."""
    record = read(path)
    if record.get("part") in WITHOUT_TIMES:
        raise ValueError(f"{path} holds no times, but what the part {record['part']} found")
    return record


def committed(gpu: str | None, folder: Path = RESULTS) -> Results | None:
    """All that the repository knows of this GPU: of everything the newest measurement. None if that is nothing."""
    runs = [run for run in evidence(folder) if run["environment"]["gpu"] == gpu]
    return merged(runs) if runs else None


def evidence(folder: Path = RESULTS) -> list[Results]:
    """The committed records of times but samples, oldest first. Without those of `--batch`: they are other layers."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in NO_RUNS]
    runs = [run for run in map(read, paths) if run.get("part") not in WITHOUT_TIMES and not run.keys() & NO_EVIDENCE]
    return sorted(runs, key=lambda run: run["environment"]["date"])


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to repeat them."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu.name if gpu else None,
        "multiprocessors": gpu.multi_processor_count if gpu else None,
        "memory_gb": round(gpu.total_memory / 1e9) if gpu else None,
        "driver": _smi("driver_version") if gpu else None,
        "clocks": _smi("clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu") if gpu else None,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "commit": head(),
        "changed": changed(),
        "kernels": kernel_identity.names(),
        "package": package_hash(),
    }


def head() -> str | None:
    """The commit that is checked out, if this is a checkout."""
    return _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")


def changed() -> bool | None:
    """Whether tracked files differ from the commit. None if that is not known."""
    status = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def package_hash(folder: Path = ROOT / "tritonconv") -> str:
    """A hash of all that can change a time: the package's code and its tables, but for the reference."""
    linked = folder / "reference"
    files = sorted(
        path for path in (*folder.rglob("*.py"), *folder.rglob("measured_tiles/*.json")) if linked not in path.parents
    )
    content = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:12]


def key(row: Row) -> tuple[str, str, str, str]:
    """What a row is about: two with the same are measurements of the same thing."""
    return row["layer"], row["pass"], row["contender"], row["dtype"]


def kernels_of(operators: Iterable[str], kernels: dict[str, str]) -> dict[str, str]:
    """The names of the kernels that a pass of these operators runs."""
    return {operator: kernels[operator] for operator in sorted(operators)}


def lost(device: torch.device) -> bool:
    """Whether the GPU is lost to this process: every call from now on fails. A CUDA error does that, or does not."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return bool(torch.ones(1, device=device).item() != 1)
    except Exception:
        return True


def in_short(error: Exception) -> str:
    """The first line of what an exception says, or what it is."""
    return (f"{error}".splitlines() or [type(error).__name__])[0][:300]


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _smi(query: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def merged(runs: Sequence[Results]) -> Results:
    """One record of several: the later run's rows in the place of the earlier's. Raises ValueError across machines.

    `environment` and `ceilings` are those of the last; `runs` has the environments of all that still have rows.
    """
    machines = {run["environment"]["gpu"] or run["environment"]["cpu"] for run in runs}
    if len(machines) > 1:
        raise ValueError(f"results of different machines can not be merged: {', '.join(sorted(machines))}")
    if len({run.get("batch") for run in runs}) > 1:
        raise ValueError("results at different batches can not be merged")
    ordered = sorted(runs, key=lambda run: run["environment"]["date"])
    rows: dict[tuple[str, ...], tuple[int, Row]] = {}
    for i, run in enumerate(ordered):
        for row in run["rows"]:
            old = rows.get(key(row), (i, row))[1]
            # What could not be timed this time does not take away what was, of the same kernels.
            if (
                row["status"] == "ok"
                or old["status"] != "ok"
                or row.get("kernels", old.get("kernels")) != old.get("kernels")
            ):
                rows[key(row)] = i, row
    together = dict(ordered[-1])
    for run in ordered:
        together |= {name: run[name] for name in ("sample", "rehearsal", "stopped") if run.get(name)}
    return together | {
        "ceilings": {name: value for run in ordered for name, value in run["ceilings"].items()},
        "complete": all(run.get("complete", True) for run in ordered),
        "runs": [run["environment"] for i, run in enumerate(ordered) if i in {each for each, _ in rows.values()}],
        "rows": [row for _, row in rows.values()],
    }
