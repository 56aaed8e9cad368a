"""The record of a run as a JSON file: reading, writing and merging. A file on disk is valid JSON at any moment.

A record is an object with these fields:

  `environment`  The machine and the software: GPU, driver, versions, commit, and the name of each operator's kernels
                 (`bench.kernel_identity`).
  `ceilings`     The rates that the machine reached in the same run (`bench.run.roof.Measured`). A dtype has the TFLOP/s
                 of the fastest of several large matrix products. `copy` and `read` have the GB/s of kernels that copy
                 and read. On a GPU, `l2` and `l2_read` have those within the L2 cache.
  `ceilings_from`  The product that was fastest, by dtype: "8192 x 8192 x 8192". Older records lack this and the next.
  `ceiling_clocks` The SM clock in MHz during that product, by dtype.
  `rows`         One object for each layer, pass, contender and dtype (`bench.run.measure`).
  `part`         Only from `bench device`, `bench tune` and `bench train`: the part of the work. It is "times" for all
                 timed slices of `bench device`.
  `complete`     Only from these commands: whether everything that was planned is in the record. If not,
                 `stopped` says why.
  `architecture` Only in the part "switches" of `bench device`: the architecture of the GPU, for example sm_90.
  `batch`        Only from `pytest bench --batch`: how many images every layer had.
  `rehearsal`    Only in a rehearsal: says so. Such a record is no evidence.
  `sample`       Only in the sample in `bench/sample/`: says so. Such a record is no evidence.
  `runs`         Only in a merged record: the environment of each run whose rows are in it (`merged`).

`read` also accepts what `pytest bench --benchmark-json` writes. In such a file, rows with times are the `extra_info` of
the benchmarks, and the other rows are in `tritonconv_unmeasured`.
"""

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench import kernel_identity, processes

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"

# Files in bench/results that are no records of runs: compiled kernels (`bench lowering`), with TMA descriptors that
# programs build and with the host's; the kernels' names; and the host's times on a fake GPU (`bench host`), now and at
# commit 5325bfc.
NO_RUNS = (
    "lowering.json",
    "lowering-host-descriptors.json",
    "kernels.json",
    "host.json",
    "host-before-the-fast-path.json",
)
# Records without times of layers by contenders: parts of `bench device`, "tiles" of `bench tune`, and "training" of
# `bench train`.
WITHOUT_TIMES = ("switches", "correctness", "profile", "descriptors", "tiles", "training")
# The architecture of the GPU in records that are older than the field `architecture`.
OLDER = {"NVIDIA H200": "sm_90"}
# Fields of records that are left out where GPUs are compared: made-up samples, and layers at a batch of `--batch`.
NO_EVIDENCE = {"sample", "batch"}

Row = dict[str, Any]
Results = dict[str, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. At the end of the block it is renamed to `path`.

    If the block raises an exception, the old file stays: `path` is never half written. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write `text` to a file, which is never half written."""
    with replacing(path) as beside:
        beside.write_text(text)


def lines(rows: Iterable[Row]) -> str:
    """Return a JSON list with one row a line, so that two files can be compared line by line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def read_rows(path: Path) -> list[Row]:
    """Return the list that `lines` wrote to a file."""
    rows: list[Row] = json.loads(path.read_text())
    return rows


def save(path: Path, results: Results) -> None:
    """Write a record to a file, with one row a line."""
    head = {name: value for name, value in results.items() if name != "rows"}
    write(path, f'{json.dumps(head, indent=1)[:-2]},\n "rows": {lines(results["rows"])}\n}}\n')


def read(path: Path) -> Results:
    """Return the record in a file that `save` or pytest-benchmark wrote. Raise ValueError if the file holds none.

    The kernels of its rows get the names that `kernels.json` has for them now (`kernel_identity.canonical`). An older
    record gets the field `architecture` of its environment.
    """
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError:
        raise ValueError(f"{path} is no JSON") from None
    if isinstance(found, dict) and "tritonconv" in found:
        rows = [each["extra_info"] for each in found["benchmarks"] if each["extra_info"]]
        found = {**found["tritonconv"], "rows": [*rows, *found["tritonconv_unmeasured"]]}
    if not isinstance(found, dict) or not {"environment", "ceilings", "rows"} <= set(found):
        raise ValueError(f"{path} holds no results of tritonconv's benchmarks")
    environment: dict[str, Any] = found["environment"]
    environment.setdefault("architecture", OLDER.get(environment.get("gpu") or ""))
    known = kernel_identity.read()
    for row in found["rows"]:
        if row.get("kernels"):
            row["kernels"] = kernel_identity.canonical(row["kernels"], known)
    return found


def load(path: Path) -> Results:
    """Return the record of times in a file. Raise ValueError if the file holds no record, or one without times."""
    record = read(path)
    if record.get("part") in WITHOUT_TIMES:
        raise ValueError(f"{path} holds no times of layers: it is a record of the part '{record['part']}'")
    return record


def committed(gpu: str | None, folder: Path = RESULTS) -> Results | None:
    """Return the committed records of times on this GPU as one (`merged`), or None if there are none.

    `gpu` is the name of the GPU. If it is None, the records of CPUs are taken.
    """
    runs = [run for run in evidence(folder) if run["environment"]["gpu"] == gpu]
    return merged(runs) if runs else None


def evidence(folder: Path = RESULTS) -> list[Results]:
    """Return the records with times, oldest first, without samples, rehearsals and runs of `pytest bench --batch`."""
    return [run for _, run in with_times(folder) if not run.keys() & {*NO_EVIDENCE, "rehearsal"}]


def with_times(folder: Path = RESULTS) -> list[tuple[Path, Results]]:
    """Return each file with a record of times, and the record, oldest first."""
    found = [(path, read(path)) for path in sorted(folder.glob("*.json")) if path.name not in NO_RUNS]
    found = [(path, run) for path, run in found if run.get("part") not in WITHOUT_TIMES]
    return sorted(found, key=lambda each: each[1]["environment"]["date"])


def environment(device: torch.device) -> dict[str, Any]:
    """Return the field `environment` of a record: machine, versions, commit, and the names of the kernels.

    A reader needs them to judge the times, or to repeat them. On a CPU, the fields of the GPU are None.
    """
    from tritonconv import runtime

    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu.name if gpu else None,
        "architecture": runtime.gpu_of(device).architecture.name if gpu else None,
        "multiprocessors": gpu.multi_processor_count if gpu else None,
        "memory_gb": round(gpu.total_memory / 1e9) if gpu else None,
        "l2_bytes": gpu.L2_cache_size if gpu else None,
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
    """Return the first 12 digits of the commit that is checked out; None outside a checkout."""
    return _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")


def changed() -> bool | None:
    """Whether tracked files differ from the commit; None if that is unknown."""
    status = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def package_hash(folder: Path = ROOT / "tritonconv") -> str:
    """Return a hash of the files of the package that can change a time.

    These are its code, without the reference, and its tables of measured tiles.
    """
    linked = folder / "reference"
    files = sorted(
        path for path in (*folder.rglob("*.py"), *folder.rglob("measured_tiles/*.json")) if linked not in path.parents
    )
    content = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:12]


def key(row: Row) -> tuple[str, str, str, str]:
    """Return the layer, pass, contender and dtype of a row. Rows with the same key measure the same thing."""
    return row["layer"], row["pass"], row["contender"], row["dtype"]


def kernels_of(operators: Iterable[str], kernels: dict[str, str]) -> dict[str, str]:
    """Return those of `kernels`, the names of all operators' kernels, that belong to `operators`."""
    return {operator: kernels[operator] for operator in sorted(operators)}


def lost(device: torch.device) -> bool:
    """Whether this process can no longer use the GPU: some CUDA errors make every later call fail. False on a CPU."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return bool(torch.ones(1, device=device).item() != 1)
    except Exception:
        return True


def in_short(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if it has none; at most 300 characters."""
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


@cache
def _smi(query: str) -> str | None:
    """Return what nvidia-smi says. A process asks once, because the program takes a share of a second to start."""
    return _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    """Return what a program prints; None if it is not installed, fails, or takes longer than 30 seconds."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def merged(runs: Sequence[Results]) -> Results:
    """Return one record of several runs on one machine. Raise ValueError if machines or batches differ.

    For each key, the row of the last run counts. But a row without a time replaces one with a time only if it names
    other kernels. Rows of the same code from several processes are combined into one (`bench.processes`). Each run is a
    process of its own, unless its rows have the field `process`. Of a contender that has none of our code, only runs
    count in which it took turns with ours, if there are any (`bench.processes`).

    If rows of several runs are left, each row gets the field `measured`: the dates of its runs, with the process if the
    row has one. It tells which rows were not timed side by side.

    A ceiling is that of the last run that measured it. `complete` is true if all runs are complete. `runs` lists the
    environments of the runs that still have rows. `sample`, `rehearsal` and `stopped` are those of the last run that
    has them. All other fields are those of the last run.
    """
    machines = {machine(run["environment"]) for run in runs}
    if len(machines) > 1:
        raise ValueError(f"results of different machines cannot be merged: {', '.join(sorted(machines))}")
    if len({run.get("batch") for run in runs}) > 1:
        raise ValueError("results at different batches cannot be merged")
    ordered = sorted(runs, key=lambda run: run["environment"]["date"])
    found: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
    for i, run in enumerate(ordered):
        for row in run["rows"]:
            found.setdefault(key(row), []).append((i, row))
    rows = processes.taking_turns([processes.same_code(each, ordered) for each in found.values()])
    together = dict(ordered[-1])
    for run in ordered:
        together |= {name: run[name] for name in ("sample", "rehearsal", "stopped") if run.get(name)}
    for name in ("ceilings", "ceilings_from", "ceiling_clocks"):
        if any(name in run for run in ordered):
            together[name] = {what: value for run in ordered for what, value in run.get(name, {}).items()}
    used = {i for each in rows for i, _ in each}
    if len(used) > 1:
        rows = [[(i, processes.with_run(row, ordered[i])) for i, row in each] for each in rows]
    return together | {
        "complete": all(run.get("complete", True) for run in ordered),
        "runs": processes.once(run["environment"] for i, run in enumerate(ordered) if i in used),
        "rows": [processes.combined([row for _, row in each]) for each in rows],
    }


def machine(about: dict[str, Any]) -> str:
    """Return the name of a machine: its GPU, or its CPU with the number of threads, on which its times depend."""
    return str(about["gpu"]) if about["gpu"] else f"{about['cpu']} with {about['threads']} threads"
