"""Reports from the committed sample: tables, numbers, changes, and errors in one line."""

import os
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import results
from bench.report import command, every_time, numbers, origin, publish, ratio_tables, tables
from tests.bench.made_up import SAMPLE, a_gpu_s_row, by_hand, compared
from tests.support.processes import python


def test_the_sample_says_what_it_is() -> None:
    assert len(SAMPLE) == 2
    for path in SAMPLE:
        run = results.load(path)
        assert "sample" in run
        assert tables.report(run).splitlines()[2].startswith("**A sample")
        assert path.stat().st_size < 200_000
        with pytest.raises(ValueError, match="a sample can not be published"):
            publish.publish(run)


def test_device_and_eager_times_are_summed_up_apart() -> None:
    found = compared(by_hand())
    assert found.passes == ["fprop", "wgrad"]
    assert found.families == {"dense 3x3": ["a", "b"], "1x1": ["c"]}
    assert found.mean("device", "fprop", "dense 3x3") == pytest.approx(1.0)
    assert found.mean("eager", "fprop") == pytest.approx((0.5 * 0.25 * 0.25) ** (1 / 3))
    assert (found.wins("device"), found.wins("eager")) == ((2, 1, 4), (0, 4, 4))
    assert found.slowest_first("device") == [("b", "fprop"), ("c", "fprop"), ("a", "fprop"), ("a", "wgrad")]
    assert found.roof("torch", "wgrad") == pytest.approx(0.25)
    assert (found.host("torch"), found.host("triton")) == (25.0, 75.0)


def test_host_times_are_of_the_same_layers() -> None:
    """torch was also timed in a layer that triton was not, which takes its host 500 us."""
    run = by_hand()
    run["rows"] += [a_gpu_s_row(name, "1x1", "fprop", "torch", 10.0, 1000.0) for name in "def"]
    assert (compared(run).host("torch"), compared(run).host("triton")) == (25.0, 75.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0041, "0.0041"),
        (0.03, "0.030"),
        (0.0996, "0.10"),
        (5.5, "5.50"),
        (9.996, "10.0"),
        (244.4, "244"),
        (1e4, "10000"),
    ],
)
def test_numbers_have_one_format(value: float, text: str) -> None:
    assert numbers.number(value) == text


def test_shares_and_rates_keep_their_digits() -> None:
    shares = [0.0026, 0.005, 0.09, 0.0996, 0.5, 1.24]
    assert [numbers.percent(share) for share in shares] == ["0.26 %", "0.50 %", "9.0 %", "10 %", "50 %", "124 %"]
    assert [numbers.significant(rate) for rate in (714.0, 0.235, 2772.0, 45.2)] == ["714.0", "0.2350", "2772", "45.20"]


def test_a_layer_without_a_share_of_the_roofline() -> None:
    run = by_hand()
    run["rows"] = [row | {"roof": None if row["layer"] == "c" else row["roof"]} for row in run["rows"]]
    assert "| c | 1.00 | 0.25 | " in str(ratio_tables.layers(compared(run)))
    assert "| 1x1 (1) | 1.00 | 0.25 | " in str(ratio_tables.families(compared(run)))


def test_every_time_has_its_spread() -> None:
    """Also the eager times, which are the only ones on a CPU."""
    run = by_hand()
    run["rows"] = [row | {"device_us": None, "how": "wall"} for row in run["rows"]]
    assert "| a | fprop | bfloat16 | triton | 100.0 (90.0-110.0) | 50.0 |" in every_time.details(run)
    assert "| triton | 10.0 (9.0-11.0) | 100.0 (90.0-110.0) | 50.0 |" in every_time.details(by_hand())


def test_a_rehearsal_has_times_and_no_ratio() -> None:
    """Its layers are scaled down, so a ratio would say nothing about those whose names they have."""
    run = by_hand() | {"rehearsal": "small"}
    run["rows"][-1] |= {"status": "wrong", "reason": "because"}
    text = tables.report(run)
    assert "**A rehearsal: small. These are no results.**" in text
    assert "| layer | pass | torch us | triton us |" in text
    assert "| b | fprop | 20.0 (18.0-22.0) | 40.0 (36.0-44.0) |" in text
    assert "| c | fprop | 10.0 (9.0-11.0) | wrong |" in text
    assert "- 1 triton wrong: because (c fprop)" in text
    assert "ratio says" not in text
    assert "0.50" not in text
    for other in (by_hand(), run | {"sample": "made up"}):
        assert "0.50" in tables.report(other)


def test_ceilings_say_what_reached_them() -> None:
    run = by_hand() | {"ceilings": {"bfloat16": 700.0, "read": 4000.0}}
    assert [unit for _, unit in origin.ceilings(run)] == ["TFLOP/s in a bfloat16 matrix product", "GB/s in reading"]
    run |= {"ceilings_from": {"bfloat16": "8 x 8 x 8"}, "ceiling_clocks": {"bfloat16": 1755.0}}
    text = "700.0 TFLOP/s in a bfloat16 matrix product (8 x 8 x 8) at 1755 MHz, 4000 GB/s in reading."
    assert text in tables.report(run)


def test_against_older_results(capsys: pytest.CaptureFixture[str]) -> None:
    old = results.load(SAMPLE[0])
    slower = {**old, "rows": [dict(row) for row in old["rows"]]}
    changed = next(row for row in slower["rows"] if row["contender"] == "reference" and row["status"] == "ok")
    changed["wall_us"] = {name: value * 10 for name, value in changed["wall_us"].items()}
    assert command.against(old, old, 0.05) == 0
    assert command.against(slower, old, 0.05) == 1
    assert (
        f"{changed['layer']} {changed['pass']} reference float32: 10.00 times slower; torch itself"
        in capsys.readouterr().out
    )


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"something": 1}')
    with pytest.raises(ValueError, match="holds no results"):
        results.load(path)
    path.write_text("# words")
    with pytest.raises(ValueError, match="is no JSON"):
        results.load(path)
    results.save(path, results.load(SAMPLE[0]) | {"part": "profile"})
    with pytest.raises(ValueError, match="holds no times"):
        results.load(path)


def test_a_missing_file_is_said_in_one_line() -> None:
    """Every command of `python -m bench` reports errors in this way."""
    done = python("-m", "bench", "report", "missing.json")
    assert done.returncode == 2
    assert done.stderr.startswith("python -m bench report: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "README.md"],
        ["lowering", "--rows", "nonsense"],
        ["lowering", "--arch", "sm_80", "--descriptors", "host"],
        ["lowering", "--publish", "--descriptors", "host"],
        ["device", "--out", "x", "--rows", "nonsense"],
    ],
)
def test_bad_arguments_are_said_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # in which it says whether kernels are interpreted
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert bench.main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"python -m bench {arguments[0]}: ")
    assert said.count("\n") == 1
