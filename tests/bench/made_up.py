"""Records of times that tests make up, or take from the committed sample."""

from typing import Any

from bench import kernel_identity, results
from bench.layers import read
from bench.report.summary import Comparison
from bench.results import ROOT

# What to do if a committed page or picture is not that of the evidence.
STALE = "run python -m bench report --publish"
# The ceilings that tests of runs on a CPU take for measured.
CEILINGS = {"float32": 0.1, "copy": 10.0, "l2": 20.0}
SAMPLE = sorted((ROOT / "bench" / "sample").glob("*.json"))


def spread(median: float) -> dict[str, float]:
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median, "runs": 10}


def a_gpu_s_row(layer: str, family: str, of: str, contender: str, device: float, eager: float) -> results.Row:
    """Return a row as a GPU would give it, with 1e9 operations and 1e7 bytes. `device` and `eager` are microseconds."""
    about = {"layer": layer, "family": family, "pass": of, "contender": contender, "dtype": "bfloat16", "commit": "abc"}
    about |= {"status": "ok", "how": "graph", "image": [8, 1, 1, 1], "bound": "memory", "extra_bytes": 0}
    times = {"device_us": spread(device), "wall_us": spread(eager), "host_us": spread(eager / 2)}
    return {**about, **times, "flops": 10**9, "bytes": 10**7, "tflops": 1e3 / device, "roof": 10 / device}


# Layer, family, pass, then device and eager time of torch and of triton. On the device triton is 2, 0.5, 4 and 1 times
# as fast, in eager mode 0.5, 0.25, 0.5 and 0.25 times.
BY_HAND = [
    ("a", "dense 3x3", "fprop", (20.0, 50.0), (10.0, 100.0)),
    ("b", "dense 3x3", "fprop", (20.0, 50.0), (40.0, 200.0)),
    ("a", "dense 3x3", "wgrad", (40.0, 50.0), (10.0, 100.0)),
    ("c", "1x1", "fprop", (10.0, 50.0), (10.0, 200.0)),
]


def by_hand() -> results.Results:
    """Return a run with the rows of `BY_HAND`."""
    rows = [
        a_gpu_s_row(layer, family, of, contender, *times)
        for layer, family, of, *both in BY_HAND
        for contender, times in zip(("torch", "triton"), both, strict=True)
    ]
    return evidence() | {"rows": rows, "ceilings": {"bfloat16": 100.0, "copy": 1000.0}}


def fifty_layers() -> results.Results:
    """Return a run of all layers and five passes, whose points lie close together in a roofline."""
    rows = [
        row | {"flops": layer.geometry.flops, "bytes": layer.geometry.minimal_bytes(2)}
        for n, layer in enumerate(read())
        for of in ("fprop", "dgrad", "wgrad", "forward", "step")
        for k, contender in enumerate(("torch", "triton"))
        for row in [a_gpu_s_row(layer.name, layer.family, of, contender, 4 + n % 5 + k / 4, 50 + 50 * k)]
    ]
    return evidence() | {"rows": rows, "ceilings": {"bfloat16": 200.0, "copy": 1000.0}}


def compared(run: results.Results, contender: str = "triton") -> Comparison:
    """Return the comparison of `contender` with torch in the dtype of the run's first row."""
    found = Comparison.of(run["rows"], contender, run["rows"][0]["dtype"])
    assert found is not None
    return found


def evidence(**environment: Any) -> results.Results:
    """Return a run as a GPU would give it, with the numbers of the first sample. `environment` changes its environment.

    The sample's contender `reference` is called triton here, and all others are called torch.
    """
    run = {name: value for name, value in results.load(SAMPLE[0]).items() if name not in ("sample", "rehearsal")}
    gpu = dict(gpu="NVIDIA Test", driver="1", date="2026-01-02T03:04:05", commit="abc", changed=False)
    gpu |= dict(package=results.package_hash(), kernels=kernel_identity.names())
    rows = [row | {"contender": {"reference": "triton"}.get(row["contender"], "torch")} for row in run["rows"]]
    run["rows"] = [row for row in rows if row["status"] == "ok"]
    return run | {"environment": run["environment"] | gpu | environment}
