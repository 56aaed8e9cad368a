"""`pytest bench`: its options, and the record it leaves in the JSON of pytest-benchmark."""

from typing import Any

import pytest
import torch

from bench.contenders import CONTENDERS, DTYPES, PASSES
from bench.layers import select
from bench.session import Session

GPU = torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tritonconv")
    contenders = "torch,triton" if GPU else "torch,reference,triton"
    group.addoption("--rows", default="all", help="layers: all, smoke, or names with commas between them")
    group.addoption("--contenders", default=contenders, help=", ".join(CONTENDERS))
    group.addoption("--passes", default=",".join(PASSES), help="some of these, with commas between them")
    group.addoption("--dtypes", default="bfloat16" if GPU else "float32", help=", ".join(DTYPES))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark for each dtype, layer, pass and contender, those of one problem next to each other."""
    if "contender" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    try:
        layers = select(option("--rows"))
    except ValueError as error:
        raise pytest.UsageError(f"--rows: {error}") from None
    metafunc.parametrize("dtype", some(option("--dtypes"), DTYPES))
    metafunc.parametrize("layer", layers, ids=[layer.name for layer in layers])
    metafunc.parametrize("of", some(option("--passes"), PASSES))
    metafunc.parametrize("contender", some(option("--contenders"), CONTENDERS))


def some(names: str, known: Any) -> list[str]:
    chosen = names.split(",")
    if unknown := [name for name in chosen if name not in known]:
        raise pytest.UsageError(f"{', '.join(unknown)}: there are only {', '.join(known)}")
    return chosen


SESSION = pytest.StashKey[Session]()


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    option = request.config.getoption
    device = torch.device("cuda" if GPU else "cpu")
    request.config.stash[SESSION] = Session(device, option("--contenders").split(","), option("--dtypes").split(","))
    return request.config.stash[SESSION]


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """What `bench.results.load` reads beside each benchmark's `extra_info`."""
    session = config.stash[SESSION]
    output_json["tritonconv"] = session.record()
    output_json["tritonconv_unmeasured"] = [row for row in session.rows() if row["status"] != "ok"]
