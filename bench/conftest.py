"""`pytest bench`: its options, the benchmarks that they ask for, and the record that a run writes."""

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
    group.addoption("--contenders", default=contenders, help=f"with commas between them: {', '.join(CONTENDERS)}")
    group.addoption("--passes", default=",".join(PASSES), help=f"with commas between them: {', '.join(PASSES)}")
    group.addoption(
        "--dtypes", default="bfloat16" if GPU else "float32", help=f"with commas between them: {', '.join(DTYPES)}"
    )
    group.addoption(
        "--batch",
        type=int,
        metavar="N",
        help="measure the layers with their real channels and sizes, but N images each; without it, a GPU takes each "
        "layer's own batch, and a CPU takes small versions of the layers, which are no results",
    )
    group.addoption("--save", type=Path, metavar="FILE", help="where to write the record, for python -m bench report")


def pytest_configure(config: pytest.Config) -> None:
    """Raise a usage error for an option's value that does not exist, before anything runs."""
    option = config.getoption
    try:
        select(option("--rows"))
        for name, known in (("--contenders", CONTENDERS), ("--passes", PASSES), ("--dtypes", DTYPES)):
            if unknown := [each for each in option(name).split(",") if each not in known]:
                raise ValueError(f"{name} {', '.join(unknown)}: there are only {', '.join(known)}")
        if (batch := option("--batch")) is not None and batch < 1:
            raise ValueError(f"--batch {batch}: there is at least 1 image")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one benchmark for each dtype, layer, pass and contender. All contenders of a problem follow each other."""
    if "contender" in metafunc.fixturenames:
        small = not GPU and metafunc.config.getoption("--batch") is None
        contenders, passes = chosen(metafunc.config, "--contenders"), chosen(metafunc.config, "--passes")
        each = [
            pytest.param(layer, of, contender, id=f"{layer.name}-{of}-{contender}")
            for layer in select(metafunc.config.getoption("--rows"))
            for of in passes
            for contender in competing(contenders, layer, small)
        ]
        metafunc.parametrize("dtype", chosen(metafunc.config, "--dtypes"))
        metafunc.parametrize(("layer", "of", "contender"), each)


def chosen(config: pytest.Config, option: str) -> list[str]:
    """Return the values of an option that takes several, each once."""
    return list(dict.fromkeys(config.getoption(option).split(",")))


SESSION = pytest.StashKey[Session]()


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The session that all benchmarks share. Its record is written at the end, if `--save` says where to."""
    config = request.config
    device = torch.device("cuda" if GPU else "cpu")
    session = Session(device, chosen(config, "--contenders"), chosen(config, "--dtypes"), config.getoption("--batch"))
    config.stash[SESSION] = session
    yield session
    if config.getoption("--save"):
        results.save(config.getoption("--save"), {**session.record(), "rows": session.rows()})


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Add to pytest-benchmark's JSON what `bench.results.read` needs beside each benchmark's `extra_info`."""
    session = config.stash[SESSION]
    output_json["tritonconv"] = session.record()
    output_json["tritonconv_unmeasured"] = [row for row in session.rows() if row["status"] != "ok"]
