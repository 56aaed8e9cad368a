"""Tuned, untuned and held-out layers have means of their own, and what is noise has none."""

from pathlib import Path
from typing import Any

import pytest

from bench.report import compare, every_time, gpu_page, groups, ratio_tables, readme_section, tables, tuned
from bench.report.summary import Comparison
from bench.report.summary_tables import headline
from bench.results import RESULTS, Results, Row, load
from tests.bench.made_up import a_gpu_s_row, by_hand, compared, spread
from tritonconv.tiling import measured


def both(layer: str, device: float, **more: Any) -> list[Row]:
    """Return the rows of a layer in which torch takes 10 us, and triton takes `device`. `more` are fields of triton."""
    rows = [
        a_gpu_s_row(layer, "1x1", "fprop", name, time, time) for name, time in (("torch", 10.0), ("triton", device))
    ]
    shared = {name: more[name] for name in ("held_out",) if name in more}
    return [rows[0] | shared, rows[1] | more]


def mixed() -> Results:
    """Return a run of two tuned layers, twice and 8 times as fast as torch, of one that is not, and of two held out.

    The third takes twice as long as torch. The held-out ones take 4 times as long, and as long as torch.
    """
    yes, no = ({"fprop": each} for each in (True, False))
    rows = [*both("a", 5.0, tuned=yes), *both("b", 1.25, tuned=yes), *both("c", 20.0, tuned=no)]
    rows += [*both("h", 40.0, tuned=no, held_out=True), *both("i", 10.0, tuned=no, held_out=True)]
    return by_hand() | {"rows": rows}


def test_each_group_has_a_mean() -> None:
    """The mean of all layers is (2 * 8 / 2) ** (1 / 3), without the held-out ones."""
    found = compared(mixed())
    means = {name: part.mean("device", "fprop", family) for name, part, family in groups.groups(found)}
    assert means == {
        "1x1 (3)": pytest.approx(2.0),
        "tuned (2)": pytest.approx(4.0),
        "not tuned (1)": pytest.approx(0.5),
        "held out (2)": pytest.approx(0.5),
    }
    for text in (headline(found), str(ratio_tables.families(found))):
        assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [f"| {name}" for name in means]


def test_held_out_layers_are_in_no_other_number() -> None:
    found = compared(mixed())
    alone = compared(mixed() | {"rows": [row for row in mixed()["rows"] if not row.get("held_out")]})
    assert (found.wins("device"), found.families) == (alone.wins("device"), alone.families)
    assert found.host("triton") == alone.host("triton")
    assert found.roof("triton") == alone.roof("triton")
    assert found.held_out is not None
    assert found.held_out.layers() == ["h", "i"]
    text = tables.report(mixed())
    start, end = text.split("## triton over torch, bfloat16: held-out layers")
    assert "| h |" not in start
    assert "| h | 0.25 " in end
    assert "Held-out layers, whose shapes no tile was tuned for" in gpu_page.held_out(found)
    assert gpu_page.held_out(alone) == ""


def test_a_run_of_held_out_layers_alone_has_a_table() -> None:
    rows = [row for row in mixed()["rows"] if row.get("held_out")]
    assert Comparison.of(rows, "triton", "bfloat16") is None
    assert "| held out" not in tables.report(mixed() | {"rows": rows})
    assert "| h | 0.25 " in tables.report(mixed() | {"rows": rows})


def test_tuned_layers_have_a_mark() -> None:
    text = tables.report(mixed())
    assert [name for name in "abchi" if f"| {name}* |" in text] == ["a", "b"]
    assert '"*" marks a tuned layer' in text
    assert "*" not in str(ratio_tables.layers(compared(by_hand())))
    assert '"*" marks' not in tables.report(by_hand())


def test_a_step_with_one_tuned_operator_is_tuned() -> None:
    row = both("a", 5.0, tuned={"fprop": False, "dgrad": True, "wgrad": False})[1]
    assert tuned.tuned(row) is True
    assert tuned.tuned(row | {"tuned": {"fprop": False}}) is False
    assert tuned.tuned(row | {"tuned": {}}) is None
    assert tuned.tuned(both("a", 5.0)[0]) is None


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ((True, True), "All 2 layers were tuned"),
        ((True,), "The only layer was tuned"),
        ((False, False), "No layer was tuned"),
        ((True, False), "also have a mean of their own"),
        ((True, None), ""),
    ],
)
def test_the_page_says_whether_layers_were_tuned(kinds: tuple[bool | None, ...], words: str) -> None:
    rows = [
        row for n, kind in enumerate(kinds) for row in both(f"l{n}", 5.0, tuned={} if kind is None else {"x": kind})
    ]
    found = groups.tuning(compared(mixed() | {"rows": rows}))
    assert words in found
    assert bool(words) == bool(found)


def test_tiles_that_were_measured_on_another_gpu_are_said_to_be() -> None:
    run = mixed()
    alone = run | {"rows": [row for row in run["rows"] if row["layer"] in "ab"]}
    for found in (run, alone):
        assert "another GPU" not in groups.tuning(compared(found)) + tables.report(found)
        found["rows"] = [row | {"tuned_on": ["NVIDIA H200"]} if row.get("tuned") else row for row in found["rows"]]
        assert groups.tuning(compared(found)).endswith("on these very layers, but on another GPU: NVIDIA H200.")
        assert "- Tuned tiles were measured on another GPU, like this one: NVIDIA H200." in tables.report(found)


def test_older_rows_are_tuned_if_the_table_has_their_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another GPU's table, another tile, another operator and another size of elements do not count."""
    line = '{{"name": "{}", "layer": "{}", "key": ["fprop", {}]}}'
    for gpu, rows in (
        ("NVIDIA Test", [("t1", "a", 2), ("t2", "b", 2), ("t4", "e", 4)]),
        ("NVIDIA Other", [("t3", "c", 2)]),
    ):
        body = ", ".join(line.format(*row) for row in rows)
        (tmp_path / f"{gpu}.json").write_text(f'{{"gpu": "{gpu}", "rows": [{body}]}}')
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    tuned.fastest.cache_clear()
    tiles = {
        "a": {"fprop": "t1"},
        "b": {"fprop": "t1"},
        "c": {"fprop": "t3"},
        "d": {"dgrad": "t1"},
        "e": {"fprop": "t4"},
    }
    rows = [both(layer, 5.0, tile=tile)[1] for layer, tile in tiles.items()]
    rows += [rows[0] | {"dtype": "float32"}, rows[0] | {"tuned": {"fprop": False}}, both("a", 5.0)[0]]
    found = [tuned.tuned(row) for row in tuned.completed(by_hand() | {"rows": rows})["rows"]]
    tuned.fastest.cache_clear()
    assert found == [True, False, False, False, False, False, False, None]


def test_all_layers_that_are_published_from_the_first_gpu_were_tuned() -> None:
    run = tuned.completed(load(RESULTS / "nvidia-h200-2026-11-27.json"))
    found = Comparison.of(run["rows"], "triton", "bfloat16")
    assert found is not None
    assert {kind: len(places) for kind, places in found.by_tuning.items()} == {True: 45}
    assert "All 15 layers were tuned" in groups.tuning(found)
    assert "all 15 layers were tuned" in readme_section.what(found)


def wide(factor: float) -> dict[str, float]:
    """Return a time of 10 us whose p80 is `factor` times its p20."""
    return spread(10.0) | {"p20": 8.0, "p80": 8.0 * factor}


@pytest.mark.parametrize("contender", ["torch", "triton"])
def test_a_ratio_from_noise_is_not_shown(contender: str) -> None:
    """Neither if the contender's time is uncertain nor if the yardstick's is. It counts in no mean."""
    run = mixed()
    run["rows"] = [
        row | {"device_us": wide(3.6)} if (row["layer"], row["contender"]) == ("a", contender) else row
        for row in run["rows"]
    ]
    found = compared(run)
    assert found.chosen("device") == {("b", "fprop"): 8.0, ("c", "fprop"): 0.5}
    assert found.chosen("eager").keys() == {("a", "fprop"), ("b", "fprop"), ("c", "fprop")}
    text = tables.report(run)
    assert "| a* | noise | 2.00 |" in text
    assert "1 of the ratios is left out: in it, the p80 of one of the two times is more than 3.5 times its p20." in text
    assert "By medians, triton is slower in 0 of 1." in text
    assert "left out" not in tables.report(mixed())


def test_the_page_says_what_is_left_out_as_noise() -> None:
    """Of four ratios of two layers, triton is slower in those of the second by its medians."""
    run = mixed()
    run["rows"] = [
        row | {name: wide(4.0) | {"median": row[name]["median"]} for name in ("device_us", "wall_us")}
        if row["layer"] in "ac" and row["contender"] == "triton"
        else row
        for row in run["rows"]
    ]
    page = gpu_page.beside(compared(run), run)
    assert [part for part in page if part.endswith("By medians, triton is slower in 2 of 4.")]
    assert not any("left out" in part for part in gpu_page.beside(compared(mixed()), mixed()))


def test_the_limit_of_noise() -> None:
    assert not compare.is_noise([wide(1.0), wide(3.5)])
    assert compare.is_noise([wide(3.51), wide(1.0)])


def test_nothing_but_noise_is_said() -> None:
    run = mixed()
    run["rows"] = [row | {"device_us": wide(4.0), "wall_us": wide(4.0)} for row in run["rows"][:4]]
    text = tables.report(run)
    assert "No ratio is shown: in each, the p80" in text
    assert "| layer |" not in text


@pytest.mark.parametrize(
    ("record", "contender", "dtype", "count"),
    [("nvidia-h200-2026-11-27", "triton", "bfloat16", 90), ("cpu-2026-12-01", "reference", "float32", 88)],
)
def test_no_ratio_is_lost_that_was_published_before_there_was_a_limit(
    record: str, contender: str, dtype: str, count: int
) -> None:
    found = Comparison.of(load(RESULTS / f"{record}.json")["rows"], contender, dtype)
    assert found is not None
    assert found.noise == {"device": [], "eager": []}
    assert sum(map(len, found.ratios.values())) == count


def test_the_table_of_every_time_has_a_column_for_what_is_known() -> None:
    """Warm times, clock and power are left out where no row has them."""
    run = mixed()
    about = {"warm_us": spread(4.0), "clock_mhz": 1755.4, "watts": 612.0, "tile": {"fprop": "t1"}, "cold": "read"}
    run["rows"] = [row | about if (row["layer"], row["contender"]) == ("a", "triton") else row for row in run["rows"]]
    text = every_time.details(run)
    row = next(line for line in text.splitlines() if line.startswith("| a | fprop | bfloat16 | triton"))
    assert row.endswith("| 5.0 (4.5-5.5) | 4.0 | 5.0 (4.5-5.5) | 2.5 | 0.0 | 200.0 | 1755 | 612 | t1* |")
    assert "device us (p20-p80) | warm us | eager" in text
    assert '"warm us" is the time on the device' in text
    assert "cooled by writing" in text
    without = every_time.details(mixed())
    assert not [word for word in ("warm", "MHz", " W ", "processes |") if word in without]
    read = every_time.details(mixed() | {"rows": [row | {"cold": "read"} for row in mixed()["rows"]]})
    assert "cooled by writing" not in read
