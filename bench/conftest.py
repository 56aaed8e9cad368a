"""`pytest bench`: its options, and the records it leaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.layers import select
from bench.run.contenders import CONTENDERS, DTYPES, PASSES, competing
from bench.run.session import Session
from tests.support.selection import pytest_terminal_summary  # noqa: F401

GPU = torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tritonconv")
    contenders = "torch,triton" if GPU else "torch,reference,triton"
    group.addoption("--rows", default="all", help="layers: all, smoke, or names with commas between them")
    group.addoption("--contenders", default=contenders, help=", ".join(CONTENDERS))
    group.addoption("--passes", default=",".join(PASSES), help="some of these, with commas between them")
    group.addoption("--dtypes", default="bfloat16" if GPU else "float32", help=", ".join(DTYPES))
    group.addoption("--save", type=Path, metavar="FILE", help="where to write the record, for python -m bench report")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what is not there before anything runs."""
    option = config.getoption
    try:
        select(option("--rows"))
        for name, known in (("--contenders", CONTENDERS), ("--passes", PASSES), ("--dtypes", DTYPES)):
            if unknown := [each for each in option(name).split(",") if each not in known]:
                raise ValueError(f"{name} {', '.join(unknown)}: there are only {', '.join(known)}")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark for each dtype, layer, pass and contender, those of one problem next to each other."""
    if "contender" in metafunc.fixturenames:
        contenders, passes = chosen(metafunc.config, "--contenders"), chosen(metafunc.config, "--passes")
        each = [
            pytest.param(layer, of, contender, id=f"{layer.name}-{of}-{contender}")
            for layer in select(metafunc.config.getoption("--rows"))
            for of in passes
            for contender in competing(contenders, layer)
        ]
        metafunc.parametrize("dtype", chosen(metafunc.config, "--dtypes"))
        metafunc.parametrize(("layer", "of", "contender"), each)


def chosen(config: pytest.Config, option: str) -> list[str]:
    return list(dict.fromkeys(config.getoption(option).split(",")))


SESSION = pytest.StashKey[Session]()


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    config = request.config
    device = torch.device("cuda" if GPU else "cpu")
    session = Session(device, chosen(config, "--contenders"), chosen(config, "--dtypes"))
    config.stash[SESSION] = session
    yield session
    if config.getoption("--save"):
        results.save(config.getoption("--save"), {**session.record(), "rows": session.rows()})


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """What `bench.results.read` wants beside each benchmark's `extra_info`."""
    session = config.stash[SESSION]
    output_json["tritonconv"] = session.record()
    output_json["tritonconv_unmeasured"] = [row for row in session.rows() if row["status"] != "ok"]
