"""Reports from the committed sample, and what is published from the committed evidence."""

import os
import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import kernel_identity, results
from bench.report import command, compare, tables
from bench.results import RESULTS, ROOT
from tests.support.processes import python

pytest.importorskip("matplotlib")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from bench.layers import read
from bench.report import machines, performance_page, pictures, publish, readme_section, style, summary_tables
from bench.report.commits_picture import over_commits
from bench.report.roofline_picture import ROOF
from bench.report.speed_picture import lines, speed_picture
from bench.report.summary import Comparison

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
    kinds = ("commits", "reference", "roofline")
    assert drawn == sorted(f"report-{kind}-float32{suffix}.png" for kind in kinds for suffix in ("", "-dark"))
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    report = (tmp_path / "report.md").read_text()
    assert report.split("## Every time")[0].strip() in done.stdout
    assert report.count("| reference |") >= 44
    merged = results.merged([results.load(path) for path in SAMPLE])
    ratio = compare.speedups(merged["rows"], "reference", "float32")["rn50_c3_3x3", "fprop"]
    assert re.search(rf"\| rn50_c3_3x3 \| {1 / ratio:.2f} \(", done.stdout)


def test_over_commits_a_partial_run_goes_on_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run times only wgrad, at twice the speed. The other passes keep their points."""
    first = results.load(SAMPLE[0])
    rows = [
        row | {"tflops": 2 * row["tflops"]} for row in first["rows"] if row["pass"] == "wgrad" and row["status"] == "ok"
    ]
    second = first | {"rows": rows, "environment": first["environment"] | {"date": "2027-01-01"}}
    drawn: dict[str, Any] = {}
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axis, x, y, **k: drawn.update({k["label"]: y}) or plot(axis, x, y, **k))
    over_commits([first, second], ["reference"], "float32", style.LIGHT)
    assert set(drawn) == {"fprop", "dgrad", "wgrad", "step"}
    for of, (before, after) in drawn.items():
        assert after == pytest.approx(before * (2 if of == "wgrad" else 1))


def spread(median: float) -> dict[str, float]:
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median, "runs": 10}


def a_gpu_s_row(layer: str, family: str, of: str, contender: str, device: float, eager: float) -> results.Row:
    """Return a row as a GPU would give it, with 1e9 operations and 1e7 bytes. `device` and `eager` are microseconds."""
    about = {"layer": layer, "family": family, "pass": of, "contender": contender, "dtype": "bfloat16", "commit": "abc"}
    about |= {"status": "ok", "how": "graph", "image": [8, 1, 1, 1], "bound": "memory", "extra_bytes": 0}
    times = {"device_us": spread(device), "wall_us": spread(eager), "host_us": spread(eager / 2)}
    return {**about, **times, "flops": 10**9, "bytes": 10**7, "tflops": 1e3 / device, "roof": 10 / device}


# Layer, family, pass, then device and eager time of torch and of triton. On the device triton is 2, 0.5, 4 and 1 times
# as fast, in eager mode 0.5, 0.25, 0.5 and 0.25 times.
BY_HAND = [
    ("a", "dense 3x3", "fprop", (20.0, 50.0), (10.0, 100.0)),
    ("b", "dense 3x3", "fprop", (20.0, 50.0), (40.0, 200.0)),
    ("a", "dense 3x3", "wgrad", (40.0, 50.0), (10.0, 100.0)),
    ("c", "1x1", "fprop", (10.0, 50.0), (10.0, 200.0)),
]


def by_hand() -> results.Results:
    """Return a run with the rows of `BY_HAND`."""
    rows = [
        a_gpu_s_row(layer, family, of, contender, *times)
        for layer, family, of, *both in BY_HAND
        for contender, times in zip(("torch", "triton"), both, strict=True)
    ]
    return evidence() | {"rows": rows, "ceilings": {"bfloat16": 100.0, "copy": 1000.0}}


def fifty_layers() -> results.Results:
    """Return a run of all layers and five passes, whose points lie close together in a roofline."""
    rows = [
        row | {"flops": layer.geometry.flops, "bytes": layer.geometry.minimal_bytes(2)}
        for n, layer in enumerate(read())
        for of in ("fprop", "dgrad", "wgrad", "forward", "step")
        for k, contender in enumerate(("torch", "triton"))
        for row in [a_gpu_s_row(layer.name, layer.family, of, contender, 4 + n % 5 + k / 4, 50 + 50 * k)]
    ]
    return evidence() | {"rows": rows, "ceilings": {"bfloat16": 200.0, "copy": 1000.0}}


def compared(run: results.Results, contender: str = "triton") -> Comparison:
    """Return the comparison of `contender` with torch in the dtype of the run's first row."""
    found = Comparison.of(run["rows"], contender, run["rows"][0]["dtype"])
    assert found is not None
    return found


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


def test_a_speed_picture_shows_the_ratios() -> None:
    """Bars reach from 1 to the ratio. Wins have another colour than losses."""
    found = compared(by_hand())
    for each in style.STYLES:
        with each.applied():
            figure = speed_picture(by_hand(), found, each)
        for axis, (of, clock) in zip(figure.axes, tables.columns(found), strict=True):
            ratios = found.chosen(clock, of).values()
            assert axis.get_title().endswith(f"mean {found.mean(clock, of):.2f}")
            bars = [bar for bar in axis.patches if isinstance(bar, Rectangle)]
            assert sorted(1 + bar.get_width() for bar in bars) == pytest.approx(sorted(ratios))
            assert {text.get_text() for text in axis.texts} == {f"{ratio:.2f}" for ratio in ratios}
            for bar in bars:
                color = each.faster if bar.get_width() > 0 else each.slower
                assert bar.get_facecolor() == pytest.approx(to_rgba(color))
        pyplot.close(figure)


def test_on_a_cpu_a_picture_shows_times() -> None:
    """Without times on a device, tables and pictures show how many times as long the contender takes."""
    run = by_hand()
    run["rows"] = [row | {"device_us": None, "how": "wall"} for row in run["rows"]]
    found = compared(run)
    assert found.as_time
    figure = speed_picture(run, found, style.LIGHT)
    axis = figure.axes[0]
    bars = [bar for bar in axis.patches if isinstance(bar, Rectangle)]
    assert [text.get_text() for text in axis.texts] == ["2.00", "4.00", "4.00"]
    assert [1 + bar.get_width() for bar in bars] == pytest.approx([2, 4, 4])
    assert {bar.get_facecolor() for bar in bars} == {to_rgba(style.LIGHT.slower)}
    assert "| a | 2.00 (100 %) | 2.00 (100 %) | dense 3x3 |" in tables.layers(found)
    assert "| all (3) | 3.17 (" in tables.families(found)
    assert summary_tables.slowness(found, "fprop", None) == "3.17"
    assert tables.SAYS[True] in tables.report(run)
    pyplot.close(figure)


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
    assert tables.number(value) == text


def test_shares_and_rates_keep_their_digits() -> None:
    shares = [0.0026, 0.005, 0.09, 0.0996, 0.5, 1.24]
    assert [tables.percent(share) for share in shares] == ["0.26 %", "0.50 %", "9.0 %", "10 %", "50 %", "124 %"]
    assert [tables.significant(rate) for rate in (714.0, 0.235, 2772.0, 45.2)] == ["714.0", "0.2350", "2772", "45.20"]


def test_a_layer_without_a_share_of_the_roofline() -> None:
    run = by_hand()
    run["rows"] = [row | {"roof": None if row["layer"] == "c" else row["roof"]} for row in run["rows"]]
    assert "| c | 1.00 | 0.25 | " in tables.layers(compared(run))
    assert "| 1x1 (1) | 1.00 | 0.25 | " in tables.families(compared(run))


def test_every_time_has_its_spread() -> None:
    """Also the eager times, which are the only ones on a CPU."""
    run = by_hand()
    run["rows"] = [row | {"device_us": None, "how": "wall"} for row in run["rows"]]
    assert "| a | fprop | bfloat16 | triton | - | 100.0 (90.0-110.0) | 50.0 |" in tables.details(run)
    assert "| triton | 10.0 (9.0-11.0) | 100.0 (90.0-110.0) | 50.0 |" in tables.details(by_hand())


def test_panels_have_the_same_layers_in_the_same_order() -> None:
    """The row of a layer stays empty in a panel whose pass it lacks."""
    found = compared(by_hand())
    figure = speed_picture(by_hand(), found, style.LIGHT)
    rows = lines(found)
    assert rows == [("dense 3x3", None), ("dense 3x3", "a"), ("dense 3x3", "b"), ("1x1", None), ("1x1", "c")]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [layer or family for family, layer in rows]
    for axis, (of, clock) in zip(figure.axes, tables.columns(found), strict=True):
        assert axis.get_ylim() == figure.axes[0].get_ylim()
        assert axis is figure.axes[0] or not any(label.get_visible() for label in axis.get_yticklabels())
        for text in axis.texts:
            layer = rows[round(text.get_position()[1])][1]
            assert text.get_text() == f"{found.chosen(clock, of)[layer, of]:.2f}"
    pyplot.close(figure)


def written(figure: Figure) -> Iterator[Text]:
    """Yield the visible text of a figure, without ticks beyond the limits of their axis."""
    figure.canvas.draw()
    ticks = set()
    for axis in figure.axes:
        for scale in (axis.xaxis, axis.yaxis):
            low, high = sorted(scale.get_view_interval())
            for tick in scale.get_major_ticks():
                ticks |= {tick.label1, tick.label2}
                if low <= tick.get_loc() <= high and tick.label1.get_visible() and axis.axison:
                    yield tick.label1
    yield from (text for text in figure.findobj(Text) if text not in ticks and text.get_visible())


def assert_readable(figure: Figure) -> None:
    """Assert that the picture has at least 20 texts, and that none overlaps another or leaves the picture."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure) if text.get_text()]
    assert len(boxes) >= 20
    assert [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)] == []
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text


def published() -> Iterator[tuple[Path, list[results.Results], str]]:
    """Yield, for each machine with records, the path of the newest one, all of its runs, and whose speed is drawn."""
    for machine in machines.machines():
        yield machine[-1][0], [run for _, run in machine], publish.drawn(machine)


def assert_clear_of_the_roof(figure: Figure) -> None:
    """Assert that no line of the roofline runs through a number."""
    for axis in figure.axes:
        texts = [text for text in axis.texts if text.get_text()]
        for line in (line for line in axis.lines if line.get_label() == ROOF):
            path = line.get_path().transformed(line.get_transform())
            crossed = [text for text in texts if path.intersects_bbox(text.get_window_extent(), filled=False)]
            assert [text.get_text() for text in crossed] == []


def test_no_text_of_a_picture_lies_on_another() -> None:
    """In all pictures that are published, and in those of a run of fifty layers."""
    for runs, contender in (*((runs, contender) for _, runs, contender in published()), ([fifty_layers()], "triton")):
        drawn = pictures.pictures(runs, [contender])
        assert len(drawn) >= 2
        for picture in drawn.values():
            for each in style.STYLES:
                with each.applied():
                    figure = picture(each)
                assert_readable(figure)
                assert_clear_of_the_roof(figure)
                pyplot.close(figure)


def test_against_older_results(capsys: pytest.CaptureFixture[str]) -> None:
    old = results.load(SAMPLE[0])
    slower = {**old, "rows": [dict(row) for row in old["rows"]]}
    changed = next(row for row in slower["rows"] if row["contender"] == "reference" and row["status"] == "ok")
    changed["wall_us"] = {name: value * 10 for name, value in changed["wall_us"].items()}
    assert command.against(old, old, 0.05) == 0
    assert command.against(slower, old, 0.05) == 1
    assert f"{changed['layer']} {changed['pass']} reference float32: 10.00 times as long" in capsys.readouterr().out


STALE = "run python -m bench report --publish"


def test_what_is_published_is_what_the_evidence_gives() -> None:
    """Compares the README's section, the generated part of docs/performance.md, and the tables beside the records."""
    for path, section in ((publish.README, readme_section.readme()), (publish.PAGE, performance_page.performance())):
        text = path.read_text()
        assert publish.between(text, publish.MARKERS) == section, STALE
        assert publish.replaced(text, section, publish.MARKERS) == text
    for path, run in machines.records():
        assert path.with_suffix(".md").read_text() == publish.every_layer(run), STALE


def test_pictures_that_are_published_show_the_evidence() -> None:
    """Each has a hash of the data that it shows, and the colours of its style. All that documents show are there."""
    there = set()
    for path, runs, contender in published():
        for name in pictures.pictures(runs, [contender]):
            for each in style.STYLES:
                file = path.with_name(f"{path.stem}-{name}{each.suffix}.png")
                with Image.open(file) as image:
                    assert image.info.items() >= pictures.about(runs, name, each).items(), STALE
                    corner = image.convert("RGB").getpixel((0, 0))
                assert corner == pytest.approx([round(255 * part) for part in to_rgb(each.background)], abs=8), file
                there.add(file)
    assert set(RESULTS.glob("*.png")) == there
    for path in (publish.README, publish.PAGE):
        section = publish.between(path.read_text(), publish.MARKERS)
        pairs = re.findall(r'srcset="([^"]+)-dark.png"><img alt="[^"]+" src="([^"]+).png"', section)
        assert all(dark == light for dark, light in pairs)
        named = {(path.parent / name).resolve() for name in re.findall(r'(?:src|srcset)="([^"]+)"', section)}
        assert len(named) == 2 * len(pairs)
        assert named <= there
        assert named or not results.evidence()


def test_other_data_or_another_style_is_another_picture(tmp_path: Path) -> None:
    run = by_hand()
    slower = run | {"rows": [row | {"wall_us": spread(1.0)} for row in run["rows"]]}
    found = [pictures.about(*each) for each in (([run], "a", style.LIGHT), ([run], "b", style.LIGHT))]
    found += [pictures.about(*each) for each in (([slower], "a", style.LIGHT), ([run], "a", style.DARK))]
    assert len({tuple(each.items()) for each in found}) == 4
    assert pictures.about([by_hand()], "a", style.LIGHT) == found[0]
    figure = pyplot.figure()
    with Image.open(style.save(figure, tmp_path / "a.png", found[0])) as image:
        assert image.info.items() >= found[0].items()


def evidence(**environment: Any) -> results.Results:
    """Return a run as a GPU would give it, with the numbers of the first sample. `environment` changes its environment.

    The sample's contender `reference` is called triton here, and all others are called torch.
    """
    run = {name: value for name, value in results.load(SAMPLE[0]).items() if name not in ("sample", "rehearsal")}
    gpu = dict(gpu="NVIDIA Test", driver="1", date="2026-01-02T03:04:05", commit="abc", changed=False)
    gpu |= dict(package=results.package_hash(), kernels=kernel_identity.names())
    rows = [row | {"contender": {"reference": "triton"}.get(row["contender"], "torch")} for row in run["rows"]]
    run["rows"] = [row for row in rows if row["status"] == "ok"]
    return run | {"environment": run["environment"] | gpu | environment}


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
        assert "| dense 3x3 (2) | 1.00 / 0.35 | 4.00 / 0.50 |" in text
        assert "| all (3) | 1.00 / 0.31 | 4.00 / 0.50 |" in text
        assert "On the device, `triton` is faster in 2 of 4 passes (torch in 1), and" in text
        assert "In eager mode, torch is faster in all 4 passes, and 2.83 times as fast in the geometric mean." in text
    assert "| dense 3x3 (2) | 50 % / 50 % | 100 % / 25 % |" in page.read_text()
    assert "| torch, eager | 3 of 3 | 1 of 1 | 4 of 4 |" in page.read_text()
    assert "| b fprop 0.50 | a wgrad 4.00 | " in page.read_text()
    assert "host 75 us with `triton` and 25 us with torch" in page.read_text()
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
    assert f"a training step takes {1 / steps:#.2g} times as long as with torch.nn. " in readme.read_text()
    assert "geometric means of 11 layers at batch 2 in float32. " in readme.read_text()
    assert "NVIDIA Test" in readme.read_text()
    worst = min(ratios, key=lambda place: ratios[place])
    assert f"| {' '.join(worst)} | {tables.number(1 / ratios[worst])} |" in page.read_text()
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
    alone = summary_tables.verdict(compared(run), "device")
    run["rows"] += [
        a_gpu_s_row("l", "local", "fprop", contender, time, time)
        for contender, time in (("reference", 30.0), ("triton", 5.0))
    ]
    written = publish.publish(run, *documents)
    assert "nvidia-test-2026-01-02-triton-local-bfloat16.png" in {path.name for path in written}
    for path in (readme, page):
        assert alone in path.read_text()
        assert "`triton` is faster in the only pass, and 6.00 times as fast." in path.read_text()
    assert "| local (1) | 6.00 / 6.00 |" in page.read_text()


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
