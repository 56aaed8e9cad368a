"""`pytest bench`: checks and times every layer, pass and contender. `python -m bench report` makes a table of it."""

from typing import Any

import pytest
import torch

from bench.layers import Layer
from bench.run.contenders import Pass, at_its_best, computation
from bench.run.session import Session


# pytest turns warnings into errors, but a contender that warns is timed all the same.
@pytest.mark.filterwarnings("default")
def test_throughput(
    request: pytest.FixtureRequest, session: Session, layer: Layer, of: Pass, contender: str, dtype: str
) -> None:
    """Time one contender twice: by the session and by pytest-benchmark.

    The session times all contenders of a pass side by side; its row goes into `extra_info`, which reports read.
    pytest-benchmark times one contender after another.
    """
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
