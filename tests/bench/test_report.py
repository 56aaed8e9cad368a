"""Reports from the committed sample, and the README's section from the committed evidence."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import kernel_identity, results
from bench.report import command, compare, tables
from bench.results import RESULTS, ROOT
from tests.support.processes import python

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from bench.report import pictures, publish

SAMPLE = sorted((ROOT / "bench" / "sample").glob("*.json"))


def test_the_sample_says_what_it_is() -> None:
    assert len(SAMPLE) == 2
    for path in SAMPLE:
        run = results.load(path)
        assert "sample" in run
        assert tables.report(run).splitlines()[2].startswith("**A sample")
        assert path.stat().st_size < 200_000
        with pytest.raises(ValueError, match="a sample can not be published"):
            publish.publish(run)


def test_pictures_are_drawn(tmp_path: Path) -> None:
    done = python("-m", "bench", "report", *map(str, SAMPLE), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == [f"report-{kind}-float32.png" for kind in ("commits", "reference", "roofline")]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    report = (tmp_path / "report.md").read_text()
    assert report.split("## Every time")[0].strip() in done.stdout
    assert report.count("| reference |") >= 44
    merged = results.merged([results.load(path) for path in SAMPLE])
    ratio = compare.speedups(merged["rows"], "reference", "float32")["rn50_c3_3x3", "fprop"]
    assert re.search(rf"\| rn50_c3_3x3 \| {ratio:.2f} \(", done.stdout)


def test_over_commits_a_partial_run_goes_on_from_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All, then only wgrad at twice the speed: one point each, and the other passes as they were."""
    first = results.load(SAMPLE[0])
    rows = [
        row | {"tflops": 2 * row["tflops"]} for row in first["rows"] if row["pass"] == "wgrad" and row["status"] == "ok"
    ]
    second = first | {"rows": rows, "environment": first["environment"] | {"date": "2027-01-01"}}
    drawn: dict[str, Any] = {}
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axis, x, y, **k: drawn.update({k["label"]: y}) or plot(axis, x, y, **k))
    pictures.over_commits([first, second], ["reference"], "float32", tmp_path / "picture.png")
    assert set(drawn) == {"fprop", "dgrad", "wgrad", "step"}
    for of, (before, after) in drawn.items():
        assert after == pytest.approx(before * (2 if of == "wgrad" else 1))


def test_speedup_bars_show_speedups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[float] = []
    barh = Axes.barh
    monkeypatch.setattr(Axes, "barh", lambda axis, y, width, **k: widths.extend(width) or barh(axis, y, width, **k))
    run = results.load(SAMPLE[0])
    pictures.speedup_bars(run, "reference", "float32", tmp_path / "picture.png")
    ratios = compare.speedups(run["rows"], "reference", "float32")
    assert sorted(1 + width for width in widths) == pytest.approx(sorted(ratios.values()))


def test_against_older_results(capsys: pytest.CaptureFixture[str]) -> None:
    old = results.load(SAMPLE[0])
    slower = {**old, "rows": [dict(row) for row in old["rows"]]}
    changed = next(row for row in slower["rows"] if row["contender"] == "reference" and row["status"] == "ok")
    changed["wall_us"] = {name: value * 10 for name, value in changed["wall_us"].items()}
    assert command.against(old, old, 0.05) == 0
    assert command.against(slower, old, 0.05) == 1
    assert f"{changed['layer']} {changed['pass']} reference float32: 10.00 times as long" in capsys.readouterr().out


def test_the_readme_speaks_of_the_evidence() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.split(publish.BEGIN)[1].split(publish.END)[0].strip()
    assert section == publish.section(RESULTS), "run python -m bench lowering --publish, or report --publish"
    if not results.evidence():
        assert "Nothing has been timed on a GPU yet" in section


def evidence(**environment: Any) -> results.Results:
    """A run as a GPU would give it: here of the sample's numbers, to see what is made of it."""
    run = {name: value for name, value in results.load(SAMPLE[0]).items() if name not in ("sample", "rehearsal")}
    gpu = dict(gpu="NVIDIA Test", driver="1", date="2026-01-02T03:04:05", commit="abc", changed=False)
    gpu |= dict(package=results.package_hash(), kernels=kernel_identity.names())
    rows = [row | {"contender": {"reference": "triton"}.get(row["contender"], "torch")} for row in run["rows"]]
    run["rows"] = [row for row in rows if row["status"] == "ok"]
    return run | {"environment": run["environment"] | gpu | environment}


def test_publishing(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n")
    written = publish.publish(evidence(), tmp_path, readme)
    assert {"nvidia-test-2026-01-02.json", "nvidia-test-2026-01-02.md", "README.md"} <= {path.name for path in written}
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    for words in ("NVIDIA Test", "Worst: ", "Best: ", "old"):
        assert (words in text) == (words != "old")
    ratios = compare.speedups(evidence()["rows"], "triton", "float32")
    wins = sum(ratio > 1 for ratio in ratios.values())
    assert f"Faster than cuDNN in {wins} of {len(ratios)}" in text
    worst = min(ratios, key=lambda place: ratios[place])
    assert f"Worst: {worst[0]} {worst[1]} {ratios[worst]:.2g}" in text
    known = results.committed("NVIDIA Test", tmp_path)
    assert known is not None
    assert len(known["rows"]) == len(evidence()["rows"])
    assert results.committed("NVIDIA Other", tmp_path) is None


def test_local_layers_are_published_in_a_table_of_their_own(tmp_path: Path) -> None:
    """And change nothing of what is said of torch."""
    run = evidence()
    of_one = [row for row in run["rows"] if row["layer"] == run["rows"][0]["layer"]]
    local = {"layer": "local_3x3_64_at_14", "family": "local"}
    run["rows"] += [
        row | local | {"contender": {"torch": "reference"}.get(row["contender"], "triton")} for row in of_one
    ]
    (tmp_path / "README.md").write_text(f"{publish.BEGIN}{publish.END}")
    written = publish.publish(run, tmp_path, tmp_path / "README.md")
    assert "nvidia-test-2026-01-02-triton-local-float32.png" in {path.name for path in written}
    text = (tmp_path / "README.md").read_text()
    assert re.search(r"Faster than unfold \+ einsum in \d of 4 passes", text)
    assert f"of {len(compare.speedups(evidence()['rows'], 'triton', 'float32'))} passes" in text


def test_a_run_without_a_commit_is_known_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{publish.BEGIN}{publish.END}")
    monkeypatch.setattr(results, "head", lambda: "head")
    monkeypatch.setattr(results, "changed", lambda: True)
    unknown = evidence(commit=None, changed=None)
    for run in (unknown, evidence(changed=True), evidence(commit=None, package="other")):
        with pytest.raises(ValueError, match="does not know its commit"):
            publish.publish(run, tmp_path, readme)
    monkeypatch.setattr(results, "changed", lambda: False)
    with pytest.raises(ValueError, match="does not know its commit"):
        publish.publish(evidence(commit=None, package="other"), tmp_path, readme)
    for expected in ("nvidia-test-2026-01-02.json", "nvidia-test-2026-01-02-2.json"):
        publish.publish(results.merged([unknown]), tmp_path, readme)
        published = results.load(tmp_path / expected)
        assert published["environment"]["commit"] == "head"
        assert {row["commit"] for row in published["rows"]} == {"head"}
        assert "commit head;" in (tmp_path / expected).with_suffix(".md").read_text()


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
    """As all of `python -m bench` says what is wrong."""
    done = python("-m", "bench", "report", "missing.json")
    assert done.returncode == 2
    assert done.stderr.startswith("python -m bench report: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "README.md"],
        ["lowering", "--rows", "nonsense"],
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
