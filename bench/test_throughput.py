"""`pytest bench`: check and time the layers, passes and contenders that its options choose."""

from typing import Any

import pytest
import torch

from bench.layers import Layer
from bench.run.contenders import Pass, at_its_best, computation
from bench.run.session import Session

# The options with which pytest-benchmark writes or compares times of its own.
WRITING = (
    "benchmark_json",
    "benchmark_save",
    "benchmark_autosave",
    "benchmark_save_data",
    "benchmark_compare",
    "benchmark_histogram",
)


# A contender that warns is timed all the same.
@pytest.mark.filterwarnings("default")
def test_throughput(
    request: pytest.FixtureRequest, session: Session, layer: Layer, of: Pass, contender: str, dtype: str
) -> None:
    """Time the pass `of` of a layer by one contender, if its result is right.

    The times that count are those of `Session.measure`, where contenders take turns. They go into the record. If
    pytest-benchmark writes a file, they also go into `extra_info` there, beside its own times of one contender after
    another. The test is skipped if the contender cannot compute the pass, and fails if its result is wrong or missing.
    """
    row = next(row for row in session.measure(layer, of, dtype) if row["contender"] == contender)
    if row["status"] == "skipped":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", row["reason"]
    if not any(request.config.getoption(name, None) for name in WRITING):
        return
    run = computation(contender, of, session.problem(layer, dtype))

    def to_the_end() -> None:
        run()
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)

    benchmark: Any = request.getfixturevalue("benchmark")
    benchmark.group = f"{layer.name} {of} {dtype}"
    benchmark.extra_info.update(row)
    with at_its_best(dtype):
        # A call of more than 0.1 s is warm from being measured, and would take up the time for other layers.
        slow = row["wall_us"]["median"] > 1e5
        benchmark.pedantic(to_the_end, rounds=1 if slow else 3, warmup_rounds=0 if slow else 1)
