"""`pytest bench`: its options, the benchmarks that they ask for, what it shows, and the record that it writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import noise, results
from bench.layers import select
from bench.progress import Progress, Unit, summary
from bench.run.contenders import CONTENDERS, DTYPES, PASSES, competing
from bench.run.session import Session
from tests.support import selection

GPU = torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tritonconv")
    contenders = "torch,triton" if GPU else "torch,reference,triton"
    group.addoption(
        "--rows",
        default="smoke",
        metavar="LAYERS",
        help="layers: smoke (fourteen layers), all, or names with commas between them (default: smoke)",
    )
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
    """Raise a usage error for an option's value that does not exist, before anything runs.

    pytest-benchmark shows no table, unless `--benchmark-verbose` asks for it. Its ratios would compare layers with each
    other.
    """
    option = config.getoption
    config.option.benchmark_quiet = True
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


SESSION, PROGRESS, PULSE = pytest.StashKey[Session](), pytest.StashKey[Progress](), pytest.StashKey[noise.Pulse]()


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The session that all benchmarks share. Its record is written at the end, if `--save` says where to."""
    config = request.config
    device = torch.device("cuda" if GPU else "cpu")
    session = Session(device, chosen(config, "--contenders"), chosen(config, "--dtypes"), config.getoption("--batch"))
    config.stash[SESSION] = session
    if PROGRESS in config.stash:
        config.stash[PROGRESS].prepared()
    yield session
    if config.getoption("--save"):
        results.save(config.getoption("--save"), {**session.record(), "rows": session.rows()})


def unit_of(item: pytest.Item) -> Unit | None:
    """Return the pass that a benchmark measures. None for a test that is no benchmark."""
    of: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return Unit(of["dtype"], of["layer"].name, of["of"]) if "contender" in of else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which passes the run will measure."""
    screen = session.config.pluginmanager.get_plugin("terminalreporter")
    units = dict.fromkeys(unit for item in session.items if (unit := unit_of(item)))
    if screen and units and not session.config.option.collectonly:
        session.config.stash[PROGRESS] = Progress(list(units), screen)
        session.config.stash[PULSE] = noise.Pulse()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Show the pass that begins and how much is left. Time a small product between passes."""
    progress, unit = item.config.stash.get(PROGRESS, None), unit_of(item)
    if progress is None or unit is None:
        return (yield)
    if progress.current != unit:
        progress.begin(unit)
    result = yield
    if nextitem is None or unit_of(nextitem) != unit:
        progress.end()
        item.config.stash[PULSE].beat()
    return result


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Count the outcome of a benchmark, and show no letter for it: its layer has a line."""
    if PROGRESS not in config.stash or report.when != "call":
        return None
    if report.failed:
        config.stash[PROGRESS].fail()
    return None if config.get_verbosity() > 0 else (report.outcome, "", "")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured, why contenders were skipped, and whether the machine was busy."""
    selection.pytest_terminal_summary(terminalreporter)
    if session := config.stash.get(SESSION, None):
        terminalreporter.section("what was measured")
        for line in summary(session, config.getoption("--rows"), config.stash[PULSE].spread):
            terminalreporter.line(line)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Add to pytest-benchmark's JSON what `bench.results.read` needs beside each benchmark's `extra_info`."""
    session = config.stash[SESSION]
    output_json["tritonconv"] = session.record()
    output_json["tritonconv_unmeasured"] = [row for row in session.rows() if row["status"] != "ok"]
