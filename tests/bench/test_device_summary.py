"""The summary and the plan of `bench device`."""

from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.device import command, contests, estimates, summary
from bench.device.pretended import Pretended
from bench.layers import select
from tests.bench.made_up import spread
from tests.bench.test_device_rehearsal import arguments


def row(layer: str, of: str, contender: str, device: float, eager: float, **changed: Any) -> results.Row:
    times = {"device_us": spread(device), "wall_us": spread(eager), "host_us": spread(eager / 2)}
    about = {"layer": layer, "family": "dense 3x3", "pass": of, "contender": contender, "dtype": "bfloat16"}
    return about | {"status": "ok"} | times | changed


def test_ratios_by_family() -> None:
    """They are geometric means over passes of the median of both processes. Passes of one contender do not count."""
    rows = [
        row("a", "fprop", "torch", 10, 20, process=1),
        row("a", "fprop", "torch", 30, 20, process=2),
        row("a", "fprop", "triton", 10, 40, process=1),
        row("b", "fprop", "torch", 8, 10),
        row("b", "fprop", "triton", 1, 80),
        row("c", "fprop", "torch", 1000, 1000),
        row("a", "fprop", "triton", 1, 1, dtype="float16"),
        row("d", "fprop", "triton", 1, 1, status="wrong"),
        row("e", "fprop", "triton", 4, 10, family="local"),
        row("e", "fprop", "reference", 8, 10, family="local"),
    ]
    *_, dense, local = summary.ratios(rows)
    # Of a: 20 / 10 and 20 / 40. Of b: 8 / 1 and 10 / 80. The medians of the host's times are of all rows.
    assert dense == "| dense 3x3 | 2 | 4.00 | 0.25 | 10.0 | 30.0 |"
    assert local == "| local | 1 | 2.00 | 1.00 | 5.0 | 5.0 |"
    assert summary.ratios([]) == []


def test_what_is_wrong_is_shown_in_short() -> None:
    rows = [row("a", "fprop", "torch", 1, 1, status="wrong", reason="off\nby 2")] * 30
    lines = summary.wrong([{"rows": [*rows, row("b", "fprop", "torch", 1, 1)], "stopped": None}])
    assert lines[0] == "- wrong a fprop torch bfloat16: off by 2"
    assert (len(lines), lines[-1]) == (summary.WRONG + 1, f"- and {30 - summary.WRONG} more, in the files")
    lost = summary.wrong(
        [{"part": "times", "rows": [], "stopped": "killed"}, {"rows": [], "stopped": "the time was up"}]
    )
    assert lost == ["- stopped times: killed"]


def test_training_steps_and_what_failed_in_them() -> None:
    about = {"what": "step", "model": "unet", "how": "eager", "batch": 16, "dtype": "bfloat16", "peak_bytes": None}
    rows = [
        about | {"implementation": "torch", "status": "ok", "images_per_second": 1234.0},
        about | {"implementation": "triton", "status": "failed", "reason": "no memory"},
    ]
    assert summary.trained({"rows": rows}) == ["- unet eager: torch 1234, triton none"]
    assert summary.wrong([{"rows": rows, "stopped": None}]) == ["- failed unet eager triton bfloat16: no memory"]
    curves = [
        {"what": "loss", "model": "unet", "how": "eager", "curve": "loss", "status": "ok"}
        | {"implementation": name, "seed": seed, "losses": [float(seed + far)]}
        for name, far in (("torch", 0), ("triton", 3))
        for seed in (0, 1)
    ]
    assert summary.trained({"rows": curves}) == ["- loss curves of unet (loss) DO NOT AGREE"]


def test_what_to_do_next_is_never_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if all else is longer than the summary may be."""
    monkeypatch.setattr(summary, "wrong", lambda records: ["- wrong"] * 100)
    args, machine = arguments(tmp_path, "--slice", "step"), Pretended("NVIDIA H200")
    lines = summary.text(args, machine, machine.environment(), [], 1.0).splitlines()
    assert len(lines) == summary.LINES
    assert lines[-3:] == ["## Next", "", "Nothing: all is current."]


def test_a_record_gets_a_name_that_is_not_taken(tmp_path: Path) -> None:
    assert summary.unused("nothing-switches") == "bench/results/nothing-switches.json"
    (tmp_path / "a.json").touch()
    (tmp_path / "a-2.json").touch()
    assert summary.unused("a", tmp_path) == str(tmp_path / "a-3.json")


def test_the_plan_says_what_remains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs neither a GPU nor a folder, and writes nothing."""
    args = arguments(tmp_path / "nothing", "--plan", "--slice", "step", "torch", "--seconds", "120")
    args.out = None
    assert command.main(args) == 0
    *about, header, step, torch_alone = capsys.readouterr().out.strip().splitlines()
    assert "estimates" in about[0]
    assert "remain" in header
    found = {each[0]: [int(number) for number in each[-7:]] for each in (step.split(), torch_alone.split())}
    units, current, left, seconds, _, done, remain = found["torch"]
    torch_has = [layer for layer in select(contests.EVERY) if layer.family not in contests.VARYING]
    assert (units, current, left) == (3 * len(torch_has), 0, 3 * len(torch_has))
    assert done + remain == left
    assert done > 10
    assert seconds > 100
    assert found["step"][0] == 6
    assert not (tmp_path / "nothing").exists()


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.out = None
    with pytest.raises(ValueError, match="--out"):
        command.main(args)


def test_estimates_follow_committed_times() -> None:
    """A layer without a committed time is guessed by its roofline. A cold cache costs the compilation of kernels."""
    (layer,) = select("rn50_c3_3x3")
    known = estimates.microseconds(layer, "fprop", "torch", "bfloat16")
    (row,) = [
        row
        for run in results.evidence()[-1:]
        for row in run["rows"]
        if results.key(row) == ("rn50_c3_3x3", "fprop", "torch", "bfloat16")
    ] or [None]
    assert row is None or known.device == row["device_us"]["median"]
    flops = 2 * 128 * 28 * 28 * 128 * 128 * 9
    guess = estimates.microseconds(layer, "fprop", "torch", "float32")
    assert guess.device == pytest.approx(flops / 50e6 / 0.4 + 3)
    assert guess.eager == guess.device + estimates.EAGER
    assert estimates.to_compile(0) == 0
    assert estimates.to_compile(17) - estimates.to_compile(16) == estimates.KERNEL
    fast, slow = (estimates.seconds_of_call(layer, "fprop", name, "bfloat16") for name in ("triton", "unfold-compile"))
    assert slow > fast + 10
