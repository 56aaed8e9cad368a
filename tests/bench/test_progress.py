"""What `pytest bench` shows: a line for each layer in a log, the current pass on a terminal, and a summary."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench import conftest, noise, progress
from bench.layers import SMOKE, select
from bench.progress import Progress, Unit


class Screen:
    """A stand-in for pytest's terminal reporter. `text` is what it got."""

    def __init__(self, isatty: bool) -> None:
        self.isatty, self.text = isatty, ""

    def write(self, text: str, **_: bool) -> None:
        self.text += text

    def write_line(self, line: str, **_: bool) -> None:
        self.text += f"{line}\n"

    def rewrite(self, line: str, **_: bool) -> None:
        self.text += f"\r{line}"


def shown(units: list[Unit], seconds: float, isatty: bool = False, failing: tuple[Unit, ...] = ()) -> list[str]:
    """Return the lines of a run whose passes take so many seconds each. The ceilings take 100 seconds before."""
    clock = [0.0]
    screen = Screen(isatty)
    shows = Progress(units, screen, now=lambda: clock[0])
    for number, unit in enumerate(units):
        shows.begin(unit)
        if number == 0:
            clock[0] += 100
            shows.prepared()
        clock[0] += seconds
        if unit in failing:
            shows.fail()
        shows.end()
    return screen.text.split("\n")[:-1]


UNITS = [Unit("float32", layer, of) for layer in ("short", "much_longer") for of in ("fprop", "dgrad")]


def test_a_log_has_a_line_for_each_layer() -> None:
    """The time of the ceilings does not count."""
    assert shown(UNITS, 1.5) == [
        "short        2 passes in  3.0 s;  1 of 2 layers, about 3 s left",
        "much_longer  2 passes in  3.0 s;  2 of 2 layers",
    ]


def test_a_terminal_also_names_the_current_pass() -> None:
    """Its line is written over and over. Only the lines of layers stay."""
    assert [line.split("\r") for line in "\n".join(shown(UNITS, 100.0, isatty=True)).split("\n\r")] == [
        [
            "",
            "short fprop: 0 of 4 passes done",
            "short dgrad: 1 of 4 passes done, about 5 min left",
            "short        2 passes in 200.0 s;  1 of 2 layers, about 3 min left",
        ],
        [
            "much_longer fprop: 2 of 4 passes done, about 3 min left",
            "much_longer dgrad: 3 of 4 passes done, about 100 s left",
            "much_longer  2 passes in 200.0 s;  2 of 2 layers",
        ],
    ]


def test_one_pass_is_not_called_passes() -> None:
    assert shown(UNITS[:1], 1.0) == ["short  1 pass in  1.0 s;  1 of 1 layers"]


def test_dtypes_are_named_if_there_are_several() -> None:
    units = [Unit(dtype, "layer", of) for dtype in ("float32", "tf32") for of in ("fprop", "dgrad")]
    assert [line.partition(" passes")[0] for line in shown(units, 1.0)] == ["layer float32  2", "layer tf32     2"]
    assert shown(units, 1.0, failing=(units[3],))[1] == "layer tf32     2 passes in  2.0 s, 1 FAILED;  2 of 2 layers"


def item(layer: str, of: str, contender: str) -> Any:
    """Return a stand-in for a benchmark that pytest collected."""
    params = dict(dtype="float32", layer=SimpleNamespace(name=layer), of=of, contender=contender)
    return SimpleNamespace(callspec=SimpleNamespace(params=params))


def test_a_run_of_pytest_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All contenders of a pass are one step. After each pass a small product is timed, which the stub counts."""
    screen, beats = Screen(isatty=True), []
    monkeypatch.setattr(noise.Pulse, "beat", lambda _: beats.append(1))
    config: Any = SimpleNamespace(
        stash=pytest.Stash(),
        pluginmanager=SimpleNamespace(get_plugin=lambda _: screen),
        option=SimpleNamespace(collectonly=False),
        get_verbosity=lambda: -1,
    )
    items = [item(layer, of, name) for layer in ("a", "b") for of in ("fprop", "step") for name in ("torch", "triton")]
    conftest.pytest_collection_finish(SimpleNamespace(config=config, items=[*items, SimpleNamespace()]))  # type: ignore[arg-type]
    for this, following in zip(items, [*items[1:], None], strict=True):
        this.config = config
        step: Any = conftest.pytest_runtest_protocol(this, following)
        next(step)
        outcome = "failed" if this is items[5] else "passed"
        report: Any = SimpleNamespace(when="call", failed=outcome == "failed", outcome=outcome)
        assert conftest.pytest_report_teststatus(report, config) == (outcome, "", "")
        with pytest.raises(StopIteration):
            step.send(None)
    assert len(beats) == 4
    lines = [line.split("\r")[1:] for line in screen.text.split("\n")]
    assert [[line.split(": ")[0].split(" in ")[0] for line in each] for each in lines] == [
        ["a fprop", "a step", "a  2 passes"],
        ["b fprop", "b step", "b  2 passes"],
        [],
    ]
    assert ["1 FAILED" in line for each in lines for line in each] == [False] * 5 + [True]


def rows(*statuses: str) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "pass": "fprop", "status": status, "wall_us": {"p20": 1.0, "p80": 1.2}}
        for layer, status in zip("abcdef", statuses, strict=False)
    ]


@pytest.mark.parametrize("small", [True, False])
def test_the_summary_says_what_was_measured(small: bool) -> None:
    found = rows("ok", "ok", "skipped", "wrong")
    session: Any = SimpleNamespace(rows=lambda: found, contenders=["torch", "x"], dtypes=["tf32"], small=small)
    lines = progress.summary(session, "smoke", 3.0)
    assert lines[0] == "4 layers; fprop; tf32; torch, x: 2 timed, 1 skipped, 1 wrong."
    assert any("rehearsal" in line for line in lines) == small
    assert sum("was busy" in line for line in lines) == 1
    assert lines[-1].endswith('make bench ARGS="--rows all"')
    assert not any("--rows all" in line for line in progress.summary(session, "a,b", 1.0))
    assert not any("was busy" in line for line in progress.summary(session, "a,b", 1.0))


def test_smoke_is_the_default() -> None:
    found: dict[str, Any] = {}
    group = SimpleNamespace(addoption=lambda name, **how: found.__setitem__(name, how.get("default")))
    conftest.pytest_addoption(SimpleNamespace(getgroup=lambda _: group))  # type: ignore[arg-type]
    assert found["--rows"] == "smoke"
    assert [layer.name for layer in select(found["--rows"])] == list(SMOKE)
