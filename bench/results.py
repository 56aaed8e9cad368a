"""The record of a run: rows, ceilings and the environment, as JSON that is whole at any moment.

A file is an object with
  `environment`  what it ran on and what with: GPU, driver, versions, commit, a hash of each operator's kernels
  `ceilings`     TFLOP/s of a large matrix product, by dtype, and GB/s of a large copy, measured in the same run
  `rows`         one object per layer, pass, contender and dtype (`bench.measure`)
  `complete`     whether everything that was planned is in it
and `rehearsal` or `sample` if it must not be taken for evidence. What `pytest bench --benchmark-json` writes is read
too: its rows are the benchmarks' `extra_info`.
"""

import ast
import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tritonconv.geometry import Operator

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
OPERATORS: tuple[Operator, ...] = ("fprop", "dgrad", "wgrad")
# Which kernels a pass of a layer runs: a step runs all three.
KERNELS_OF: dict[str, tuple[Operator, ...]] = {name: (name,) for name in OPERATORS} | {"step": OPERATORS}

# What CUDA says, by way of torch or Triton, when a context is broken for good.
STICKY = (
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "device-side assert",
)

Row = dict[str, Any]
Results = dict[str, Any]


def write(path: Path, text: str) -> None:
    """Write the file, or leave the old one: never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def dump(results: Results) -> str:
    """JSON with one row to a line, so that two files can be compared line by line."""
    head = {name: value for name, value in results.items() if name != "rows"}
    rows = ",\n".join(json.dumps(row) for row in results["rows"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def save(path: Path, results: Results) -> None:
    write(path, dump(results))


def load(path: Path) -> Results:
    """What `save` or pytest-benchmark wrote. Raises ValueError if it is neither."""
    read = json.loads(path.read_text())
    if isinstance(read, dict) and "benchmarks" in read:
        rows = [each["extra_info"] for each in read["benchmarks"] if each["extra_info"]]
        return {**read.get("tritonconv", {}), "rows": [*rows, *read.get("tritonconv_unmeasured", [])]}
    if not isinstance(read, dict) or not {"environment", "rows"} <= set(read):
        raise ValueError(f"{path} holds no results of tritonconv's benchmarks")
    return read


def committed(gpu: str | None, folder: Path = RESULTS) -> Results | None:
    """All that the repository knows of this GPU: of everything the newest measurement. None if that is nothing."""
    runs = [run for run in evidence(folder) if run["environment"]["gpu"] == gpu]
    return merged(runs) if runs else None


def evidence(folder: Path = RESULTS) -> list[Results]:
    """The committed records but samples, oldest first."""
    runs = [load(path) for path in sorted(folder.glob("*.json")) if path.name != "lowering.json"]
    return sorted((run for run in runs if "sample" not in run), key=lambda run: run["environment"]["date"])


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to repeat them."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu.name if gpu else None,
        "multiprocessors": gpu.multi_processor_count if gpu else None,
        "memory_gb": round(gpu.total_memory / 1e9) if gpu else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "commit": head(),
        "changed": bool(_output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")),
        "kernels": kernel_hashes(),
    }


def head() -> str | None:
    """The commit that is checked out, if this is a checkout."""
    return _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")


def kernel_hashes(folder: Path = ROOT / "tritonconv" / "kernels") -> dict[str, str]:
    """For each operator a hash of its kernel and what that imports, as code: comments and docstrings do not count."""
    hashes: dict[str, str] = {}
    for operator in OPERATORS:
        names: list[str] = [operator]
        code = []
        for name in names:  # grows
            tree = ast.parse((folder / f"{name}.py").read_text())
            imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            ours = [module.split(".")[-1] for module in imported if module and "tritonconv.kernels." in module]
            names += [module for module in ours if module not in names]
            code.append(ast.dump(_without_docstrings(tree)))
        hashes[operator] = hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]
    return hashes


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def key(row: Row) -> tuple[str, str, str, str]:
    """What a row is about: two with the same are measurements of the same thing."""
    return row["layer"], row["pass"], row["contender"], row["dtype"]


def matches(row: Row, hashes: dict[str, str]) -> bool:
    """Whether the kernels that the row measured are those of `hashes`."""
    return bool(row.get("kernels")) and row["kernels"] == {name: hashes[name] for name in KERNELS_OF[row["pass"]]}


def is_sticky(error: Exception) -> bool:
    """Whether the GPU is lost to this process: every call from now on would fail, and nothing of it would be true."""
    return any(words in f"{error}" for words in STICKY)


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


def _output(*command: str) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def merged(runs: Sequence[Results]) -> Results:
    """One record of several: the later run's rows in the place of the earlier's. Raises ValueError across GPUs."""
    gpus = {run["environment"]["gpu"] for run in runs}
    if len(gpus) > 1:
        raise ValueError(f"results of different GPUs can not be merged: {', '.join(map(str, sorted(gpus, key=str)))}")
    ordered = sorted(runs, key=lambda run: run["environment"]["date"])
    rows = {key(row): row for run in ordered for row in run["rows"]}
    ceilings = {name: value for run in ordered for name, value in run["ceilings"].items()}
    return {**ordered[-1], "ceilings": ceilings, "rows": list(rows.values())}
