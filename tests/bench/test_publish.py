"""What is published from the committed evidence: the README's section, docs/performance.md and tables."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import __main__ as bench
from bench import results
from bench.report import compare, numbers
from bench.results import RESULTS

pytest.importorskip("matplotlib")

from bench.report import gpu_page, machines, performance_page, pictures, publish, readme_section, summary_tables
from bench.report.summary import Comparison
from tests.bench.made_up import STALE, a_gpu_s_row, by_hand, compared, evidence


def test_what_is_published_is_what_the_evidence_gives() -> None:
    """Compares the README's section, the generated part of docs/performance.md, and the tables beside the records."""
    for path, section in ((publish.README, readme_section.readme()), (publish.PAGE, performance_page.performance())):
        text = path.read_text()
        assert publish.between(text, publish.MARKERS) == section, STALE
        assert publish.replaced(text, section, publish.MARKERS) == text
    for path, run in machines.records():
        assert path.with_suffix(".md").read_text() == publish.every_layer(run), STALE


@pytest.fixture
def documents(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A folder for records, which does not exist yet, and a README and a page with markers for the generated part."""
    begin, end = publish.MARKERS
    readme, page = tmp_path / "README.md", tmp_path / "performance.md"
    for path in (readme, page):
        path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    return tmp_path / "results", readme, page


def test_publishing(documents: tuple[Path, Path, Path]) -> None:
    folder, readme, page = documents
    written = publish.publish(by_hand(), *documents)
    stem = "nvidia-test-2026-01-02"
    files = {path.name for path in written}
    assert {f"{stem}.json", f"{stem}.md", "README.md", "performance.md"} <= files
    for kind in ("triton", "roofline"):
        assert {f"{stem}-{kind}-bfloat16.png", f"{stem}-{kind}-bfloat16-dark.png"} <= files
    assert all(path.exists() for path in written)
    for path in (readme, page):
        text = path.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "\nold\n" not in text
        assert "| dense 3x3 (2) | 1.00 / 0.35 | 4.00 / 0.50 | 50 / 25 |" in text
        assert "| all (3) | 1.00 / 0.31 | 4.00 / 0.50 | 75 / 25 |" in text
    said = readme.read_text()
    assert (
        "On the device `triton` is faster in 2 of 4 passes, 1.41 times as fast on average; in eager mode torch is "
        in said
    )
    assert "in all 4 passes, 2.83 times as fast on average." in said
    said = page.read_text()
    assert "On the device, `triton` is faster in 2 of 4 passes (torch in 1), and 1.41 times as fast in the" in said
    assert "In eager mode, torch is faster in all 4 passes, and 2.83 times as fast in the geometric mean." in said
    assert "| dense 3x3 (2) | 50 % / 50 % | 100 % / 25 % |" in page.read_text()
    assert "| torch, eager | 3 of 3 | 1 of 1 | 4 of 4 |" in page.read_text()
    assert "| b fprop 0.50 | a wgrad 4.00 | " in page.read_text()
    assert "| a | 2.00 (100 %) | 0.50 | 4.00 (100 %) | 0.50 | dense 3x3 |" in (folder / f"{stem}.md").read_text()
    known = results.committed("NVIDIA Test", folder)
    assert known is not None
    assert len(known["rows"]) == len(by_hand()["rows"])
    assert results.committed("NVIDIA Other", folder) is None


def test_the_readme_s_section_is_short() -> None:
    assert readme_section.readme().count("\n") < 20


def test_a_cpu_is_published_beside_the_gpu(documents: tuple[Path, Path, Path]) -> None:
    """The GPU comes first, although the CPU was measured later."""
    folder, readme, page = documents
    publish.publish(by_hand(), *documents)
    cpu = evidence(gpu=None, driver=None, cpu="AMD Test", threads=2, date="2026-12-01T00:00:00") | {"batch": 2}
    names = {"triton": "reference"}
    cpu["environment"]["load"] = {"start": 0.5, "end": 2.25}
    cpu["rows"] = [row | {"contender": names.get(row["contender"], row["contender"])} for row in cpu["rows"]]
    written = publish.publish(cpu, *documents)
    assert {"cpu-2026-12-01.json", "cpu-2026-12-01.md", "cpu-2026-12-01-reference-float32-dark.png"} <= {
        path.name for path in written
    }
    ratios = compare.speedups(cpu["rows"], "reference", "float32", clock="eager")
    steps = compare.geometric_mean(ratio for (_, of), ratio in ratios.items() if of == "step")
    assert steps is not None
    assert f", and {1 / steps:#.2g} times in a training step" in readme.read_text()
    assert "means of 11 layers at batch 2 in float32, from one process. " in readme.read_text()
    assert "NVIDIA Test" in readme.read_text()
    worst = min(ratios, key=lambda place: ratios[place])
    assert f"| {' '.join(worst)} | {numbers.number(1 / ratios[worst])} |" in page.read_text()
    assert "AMD Test, 2 threads, load average 0.5 at the start and 2.25 at the end; torch" in page.read_text()
    headings = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## On a GPU: NVIDIA Test", "## On a CPU: AMD Test", "## Every layer and time"]
    assert [path.stem for path, _ in machines.records(folder)] == ["nvidia-test-2026-01-02", "cpu-2026-12-01"]


def test_all_is_regenerated_from_the_evidence(
    documents: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--publish` without files writes the same texts again."""
    folder, readme, page = documents
    publish.publish(by_hand(), *documents)
    texts = {path: path.read_text() for path in (readme, page, *folder.glob("*.md"))}
    refresh = publish.refresh
    monkeypatch.setattr(publish, "refresh", lambda: refresh(*documents))
    for path in texts:
        path.write_text(f"{'<'.join(publish.MARKERS)}")
    readme.write_text(texts[readme].replace("faster", "slower"))
    page.write_text(texts[page].replace("faster", "slower"))
    monkeypatch.setattr(os, "environ", os.environ.copy())  # in which it says whether kernels are interpreted
    monkeypatch.setattr(sys, "argv", ["bench", "report", "--publish"])
    assert bench.main() == 0
    assert "written: " in capsys.readouterr().out
    assert {path: path.read_text() for path in texts} == texts
    monkeypatch.setattr(sys, "argv", ["bench", "report"])
    assert bench.main() == 2
    assert "FILE is missing" in capsys.readouterr().err


def test_a_gpu_s_run_at_another_batch_is_refused(documents: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ValueError, match="a run with --batch 1 can not be published"):
        publish.publish(by_hand() | {"batch": 1}, *documents)


def test_without_times_the_readme_says_what_the_compiler_makes(documents: tuple[Path, Path, Path]) -> None:
    folder, *_ = documents
    folder.mkdir()
    (folder / "lowering.json").write_text((RESULTS / "lowering.json").read_text())
    assert "Nothing has been timed on a GPU yet" in readme_section.readme(folder)
    assert performance_page.performance(folder) == "Nothing has been timed yet."


def test_local_layers_are_published_in_a_table_of_their_own(documents: tuple[Path, Path, Path]) -> None:
    """Local layers do not change the numbers beside torch."""
    _, readme, page = documents
    run = by_hand()
    alone, short = summary_tables.verdict(compared(run), "device"), summary_tables.in_one_sentence(compared(run))
    run["rows"] += [
        a_gpu_s_row("l", "local", "fprop", contender, time, time)
        for contender, time in (("reference", 30.0), ("triton", 5.0))
    ]
    written = publish.publish(run, *documents)
    assert "nvidia-test-2026-01-02-triton-varying-bfloat16.png" in {path.name for path in written}
    assert alone in page.read_text()
    assert short in readme.read_text()
    assert "`triton` is faster in the only pass, and 6.00 times as fast." in page.read_text()
    assert "stand beside unfold + einsum. On the device `triton` is faster in 1 of 1 passes, 6.00" in readme.read_text()
    assert "| local (1) | 6.00 / 6.00 |" in page.read_text()
    assert "All contenders" not in page.read_text()


def test_all_contenders_beside_a_yardstick_are_published() -> None:
    """The others beside unfold + einsum in one table, and beside torch in none, because there triton is alone."""
    run, times = by_hand(), {"reference": 30.0, "triton": 5.0, "grouped": 15.0, "loop": 60.0}
    run["rows"] += [a_gpu_s_row("l", "local", "fprop", name, time, 30.0) for name, time in times.items()]
    assert gpu_page.others(run, compared(run)) == []
    (beside,) = (found for found in [Comparison.of(run["rows"], "triton", "bfloat16", "reference")] if found)
    said, found = gpu_page.others(run, beside)
    assert said.startswith("All contenders beside unfold + einsum")
    rows = ["| `triton` (1) | 6.00 / 1.00 |", "| `grouped` (1) | 2.00 / 1.00 |", "| `loop` (1) | 0.50 / 1.00 |"]
    assert found.splitlines()[2:] == rows


def test_training_steps_are_published(documents: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record has its table, oldest first. Rehearsals have none. The records have no times of layers."""
    folder, *_ = documents
    monkeypatch.setitem(sys.modules, "bench.train.table", SimpleNamespace(markdown=lambda record: record["what"]))
    assert performance_page.training(folder) == []
    for name, date in (("a", "2026-02-02"), ("b", "2026-02-01"), ("c", "2026-02-03")):
        record = evidence(date=date) | {"part": "training", "what": f"| {name} |", "rows": []}
        results.save(folder / f"{name}.json", record | ({"rehearsal": "small"} if name == "c" else {}))
    assert performance_page.performance(folder) == "## Training steps\n\n| b |\n\n| a |"


def test_a_run_without_a_commit_is_known_by_its_code(
    documents: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = documents
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    monkeypatch.setattr(results, "head", lambda: "head")
    monkeypatch.setattr(results, "changed", lambda: True)
    unknown = evidence(commit=None, changed=None)
    for run in (unknown, evidence(changed=True), evidence(commit=None, package="other")):
        with pytest.raises(ValueError, match="does not know its commit"):
            publish.publish(run, *documents)
    monkeypatch.setattr(results, "changed", lambda: False)
    with pytest.raises(ValueError, match="does not know its commit"):
        publish.publish(evidence(commit=None, package="other"), *documents)
    for expected in ("nvidia-test-2026-01-02.json", "nvidia-test-2026-01-02-2.json"):
        publish.publish(results.merged([unknown]), *documents)
        published = results.load(folder / expected)
        assert published["environment"]["commit"] == "head"
        assert {row["commit"] for row in published["rows"]} == {"head"}
        assert "commit head;" in (folder / expected).with_suffix(".md").read_text()
