"""Pictures of speed, of the roofline and over commits: what they show, that they can be read, and those committed."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from bench import results
from bench.report import compare, legend, ratio_tables, tables
from bench.results import RESULTS
from tests.support.processes import python

pytest.importorskip("matplotlib")

from matplotlib import pyplot
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from bench.report import machines, pictures, publish, style, summary_tables
from bench.report.roofline_picture import ROOF, numbered, roofline
from bench.report.speed_picture import lines, speed_picture
from tests.bench.made_up import SAMPLE, STALE, a_gpu_s_row, by_hand, compared, fifty_layers, spread


def test_pictures_are_drawn(tmp_path: Path) -> None:
    done = python("-m", "bench", "report", *map(str, SAMPLE), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    kinds = ("reference", "roofline")  # both runs are of one commit, so there is no picture over commits
    assert drawn == sorted(f"report-{kind}-float32{suffix}.png" for kind in kinds for suffix in ("", "-dark"))
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    report = (tmp_path / "report.md").read_text()
    assert report.split("## Every time")[0].strip() in done.stdout
    assert report.count("| reference |") >= 44
    merged = results.merged([results.load(path) for path in SAMPLE])
    ratio = compare.speedups(merged["rows"], "reference", "float32")["rn50_c3_3x3", "fprop"]
    assert re.search(rf"\| rn50_c3_3x3 \| {1 / ratio:.2f} \(", done.stdout)


def test_a_speed_picture_shows_the_ratios() -> None:
    """Bars reach from 1 to the ratio. Wins have another colour than losses."""
    found = compared(by_hand())
    for each in style.STYLES:
        with each.applied():
            figure = speed_picture(by_hand(), found, each)
        for axis, (of, clock) in zip(figure.axes, ratio_tables.columns(found), strict=True):
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
    assert "| a | 2.00 (100 %) | 2.00 (100 %) | dense 3x3 |" in str(ratio_tables.layers(found))
    assert "| all (3) | 3.17 (" in str(ratio_tables.families(found))
    assert summary_tables.slowness(found, "fprop", None) == "3.17"
    assert legend.SAYS[True] in tables.report(run)
    pyplot.close(figure)


def test_panels_have_the_same_layers_in_the_same_order() -> None:
    """The row of a layer stays empty in a panel whose pass it lacks."""
    found = compared(by_hand())
    figure = speed_picture(by_hand(), found, style.LIGHT)
    rows = lines(found)
    assert rows == [("dense 3x3", None), ("dense 3x3", "a"), ("dense 3x3", "b"), ("1x1", None), ("1x1", "c")]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [layer or family for family, layer in rows]
    for axis, (of, clock) in zip(figure.axes, ratio_tables.columns(found), strict=True):
        assert axis.get_ylim() == figure.axes[0].get_ylim()
        assert axis is figure.axes[0] or not any(label.get_visible() for label in axis.get_yticklabels())
        for text in axis.texts:
            layer = rows[round(text.get_position()[1])][1]
            assert text.get_text() == f"{found.chosen(clock, of)[layer, of]:.2f}"
    pyplot.close(figure)


def test_a_rehearsal_has_no_picture_of_speed() -> None:
    assert set(pictures.pictures([by_hand()])) == {"triton-bfloat16", "roofline-bfloat16"}
    assert set(pictures.pictures([by_hand() | {"rehearsal": "small"}])) == {"roofline-bfloat16"}


def test_held_out_layers_are_marked() -> None:
    """They are drawn below the others, in their own families, and the means of the panels are without them."""
    run = by_hand()
    extra = [a_gpu_s_row("h", "1x1", "fprop", name, time, time) for name, time in (("torch", 10.0), ("triton", 80.0))]
    run["rows"] += [row | {"held_out": True} for row in extra]
    figure, alone = (speed_picture(each, compared(each), style.LIGHT) for each in (run, by_hand()))
    assert lines(compared(run))[-2:] == [("held out: 1x1", None), ("held out: 1x1", "h")]
    assert [axis.get_title() for axis in figure.axes] == [axis.get_title() for axis in alone.axes]
    shown = {text.get_text() for axis in figure.axes[:2] for text in axis.texts}
    assert shown - {text.get_text() for axis in alone.axes[:2] for text in axis.texts} == {"0.12"}
    key = numbered(run["rows"])[1]
    assert [line.split()[1:] for line in key if "held out" in line] == [["h", "(held", "out)"]]
    for each in (figure, alone):
        pyplot.close(each)


def test_a_picture_names_host_time_and_memory() -> None:
    run = by_hand()
    run["rows"] = [row | {"peak": 1.5 if row["contender"] == "torch" else 2.0} for row in run["rows"]]
    figure = speed_picture(run, compared(run), style.LIGHT)
    title = figure.get_suptitle()
    assert "host time of a call: 75 / 25 us\npeak memory: 2.00 / 1.50 times operands and results" in title
    pyplot.close(figure)


def test_the_roofline_takes_the_larger_rate_of_memory() -> None:
    run = by_hand() | {"ceilings": {"bfloat16": 100.0, "copy": 1000.0, "read": 2000.0}}
    for ceilings, words in ((run["ceilings"], "2000 GB/s in reading"), (by_hand()["ceilings"], "1000 GB/s in a copy")):
        figure = roofline(run | {"ceilings": ceilings}, ["triton"], "bfloat16", style.LIGHT)
        assert words in figure.get_suptitle()
        slope = next(line for line in figure.axes[0].lines if line.get_label() == ROOF)
        x, y = slope.get_xdata()[0], slope.get_ydata()[0]  # type: ignore[index]
        assert y == pytest.approx(min(100.0, x * float(words.split()[0]) / 1e3))
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
