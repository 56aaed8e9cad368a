"""`pytest bench`: every layer, pass and contender, checked and timed; `python -m bench report` makes its table."""

from typing import Any

import pytest
import torch

from bench.layers import Layer
from bench.run.contenders import Pass, at_its_best, computation
from bench.run.session import Session


# What a contender warns of is no reason not to time it.
@pytest.mark.filterwarnings("default")
def test_throughput(
    request: pytest.FixtureRequest, session: Session, layer: Layer, of: Pass, contender: str, dtype: str
) -> None:
    """Timed twice: side by side, which is what `extra_info` carries, and by pytest-benchmark, one after another."""
    row = next(row for row in session.measure(layer, of, dtype) if row["contender"] == contender)
    if row["status"] == "skipped":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", row["reason"]
    run = computation(contender, of, session.problem(layer, dtype))

    def to_the_end() -> None:
        run()
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)

    benchmark: Any = request.getfixturevalue("benchmark")
    benchmark.group = f"{layer.name} {of} {dtype}"
    benchmark.extra_info.update(row)
    with at_its_best(dtype):
        benchmark.pedantic(to_the_end, rounds=3, warmup_rounds=1)
