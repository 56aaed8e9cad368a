"""What `python -m bench lowering` prints: at most a screen, the legend first, and which kernels spill."""

import json
from typing import Any

import pytest

pytest.importorskip("triton")

from bench import own_layer
from bench.lowering import command, output, own, progress, rows, spills
from bench.lowering.progress import SECONDS, Run
from bench.lowering.table import overview, worst
from bench.results import RESULTS, read_rows

Row = dict[str, Any]


def row(**changed: Any) -> Row:
    about = dict(kernel="fprop", tile="128x128x64w8s3", dtype="bfloat16", arch="sm_90", x_vector=8, y_vector=8)
    found: Row = dict(registers=168, spill_bytes=0, shared_bytes=1000, occupancy=0.5, instructions_per_step=100)
    found |= dict(instructions_per_mma_cycle=1.5, ffma_share=None, bound_tflops=989, layers=["a", "b"])
    return about | found | dict(mma="HGMMA", copy=None, triton="3.7.1") | changed


def test_each_kernel_has_a_line_with_its_worst_figures() -> None:
    kernels = [
        row(registers=100, occupancy=0.25, instructions_per_mma_cycle=3.5),
        row(spill_bytes=8, shared_bytes=500, instructions_per_step=120, bound_tflops=700),
        row(kernel="sum_partials", instructions_per_step=None, instructions_per_mma_cycle=None, bound_tflops=None),
        row(kernel="wgrad", ffma_share=0.8),
        row(kernel="wgrad", ffma_share=0.6),
    ]
    header, *lines = (line.split() for line in overview(kernels).splitlines())
    assert " ".join(header) == "kernel compiled spill regs shared occup. instr/step /mma cycle FFMA bound"
    assert lines == [
        ["fprop", "2", "1", "168", "1000", "0.25", "120", "3.5", "-", "700"],
        ["sum_partials", "1", "0", "168", "1000", "0.5", "-", "-", "-", "-"],
        ["wgrad", "2", "0", "168", "1000", "0.5", "100", "1.5", "0.6", "989"],
    ]


def test_the_worst_rows_spill_or_issue_most() -> None:
    kernels = [
        row(tile="a", instructions_per_mma_cycle=2.0),
        row(tile="b", instructions_per_mma_cycle=3.9),
        row(tile="c", instructions_per_mma_cycle=None),
        row(tile="d", spill_bytes=4, instructions_per_mma_cycle=0.5),
    ]
    assert [line.split()[1] for line in worst(kernels, 3).splitlines()] == ["tile", "d", "b", "a"]


@pytest.mark.parametrize("lines", [24, 40, 60])
def test_a_screen_holds_everything_unless_more_is_asked_for(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the committed kernels of all architectures. A screen of 24 lines still has three rows."""
    monkeypatch.setenv("LINES", str(lines))
    kernels = [each for each in read_rows(RESULTS / "lowering.json") if each["arch"] == "sm_90"]
    printed = [output.tables(kernels, grid=False, long=False), "", "1 kernels compiled"]
    printed += [output.spills(kernels, long=False), output.of_all(10, 1.0)]
    count = sum(each.count("\n") + 1 for each in printed)
    assert count <= max(lines, 40)
    assert lines == 24 or count >= lines - 5
    legend, rest = printed[0].split("\n\n", 1)
    assert legend.startswith("x, y ")
    assert "--long" in rest
    every = output.tables(kernels, grid=False, long=True)
    assert every.startswith(legend)
    assert every.count("\n") >= len(kernels)
    assert output.tables(kernels, grid=True, long=False).splitlines()[1].split()[0] == "sm_90"


def test_spills_are_known_new_or_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"3.7.1": {("sm_90", "bfloat16", "fprop", "a", 8, 8): 8, ("sm_90", "bfloat16", "fprop", "b", 8, 8): 8}}
    kernels = [row(tile="a", spill_bytes=8), row(tile="b", spill_bytes=12), row(tile="c", spill_bytes=4), row()]
    assert spills.said(kernels, known).splitlines() == [
        "spills: 3 kernels, 1 known with Triton 3.7.1, 2 new.",
        "  fprop b, bfloat16 on sm_90, x8 y8: 12 bytes (new, known are 8)",
        "  fprop c, bfloat16 on sm_90, x8 y8: 4 bytes (new)",
        "  fprop a, bfloat16 on sm_90, x8 y8: 8 bytes (known)",
    ]
    other = [each | {"triton": "9.0"} for each in kernels]
    assert "no list is kept for Triton 9.0" in spills.said(other, known)
    assert spills.said([row()], known) == "spills: none."
    monkeypatch.setattr(spills, "COVERED", {"3.7.1": 5})
    assert spills.said(kernels, known).splitlines()[0] == (
        "spills: 3 kernels, 1 known with Triton 3.7.1, 2 new; the list is not complete: 5 kernels were compiled for it."
    )
    assert "not complete" not in spills.said(kernels[:1], known)
    many = [row(tile=str(n), spill_bytes=4) for n in range(20)]
    assert output.spills(many, long=False).splitlines()[-1] == "  and 5 more: --long lists them"
    assert output.spills(many, long=True).count("4 bytes (new)") == 20


def test_the_committed_kernels_spill_as_listed() -> None:
    """Kernels that no committed row is of may be listed too."""
    committed = read_rows(RESULTS / "lowering.json")
    version = committed[0]["triton"]
    names = ("arch", "dtype", "kernel", "tile", "x_vector", "y_vector")
    found = {tuple(each[name] for name in names): each["spill_bytes"] for each in committed}
    spilling = {key: spilled for key, spilled in found.items() if spilled}
    assert {key: spilled for key, spilled in spills.KNOWN[version].items() if key in found} == spilling
    for each in committed:
        assert spills.known_bytes(each) == each["spill_bytes"]


def test_the_estimate_is_from_the_kernels_of_the_run_if_there_are_enough() -> None:
    assert Run(compiled=40, seconds=80).seconds_each == 2
    assert Run(compiled=3, seconds=30).seconds_each == SECONDS
    assert output.of_all(1200, 1.5) == "--all adds 1,200 kernels, which take about 30 minutes here (an estimate)."
    assert output.of_all(48, 0.8) == "--all adds 48 kernels, which take about 38 seconds here (an estimate)."


def test_a_run_counts_what_is_new_kept_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(row(), True), (row(), False), (rows.Failure("no"), True)]
    monkeypatch.setattr(progress, "lower_all", lambda *_: iter(answers))
    run = progress.lowered([], [], None, fresh=False)
    assert (len(run.rows), run.failures, run.compiled) == (2, ["no"], 2)
    assert run.in_words("3.7.1").startswith("1 kernels compiled with Triton 3.7.1 in ")
    assert run.in_words("3.7.1").endswith(" s (others kept from earlier runs: 1), 1 did not compile.")


def test_the_command_prints_ones_own_layer_and_its_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    import argparse

    def lower_all(jobs: list[Any], layers: list[Any], *_: Any) -> Any:
        assert [layer.name for layer in layers] == [own_layer.parse(own_layer.EXAMPLE).layer.name]
        for job in jobs:
            yield row(kernel=job.kernel, tile=str(job.tile), layers=[layers[0].name], shared_bytes_promised=None), True

    monkeypatch.setattr(progress, "lower_all", lower_all)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    path = tmp_path / "rows.json"
    assert command.main(parser.parse_args(["--layers", own_layer.EXAMPLE, "--json", str(path)])) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(own.BOTH)
    assert printed.count("Nothing here was measured") == 1
    heading = "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56, bfloat16 on sm_90\n"
    tables = printed[printed.index(heading) :]
    for kernel in ("fprop", "dgrad", "wgrad"):
        chosen, compiled = (line.split() for line in tables.splitlines() if line.startswith(f"{kernel} "))
        assert chosen[1].partition("/")[0] == compiled[1]
    assert "wgrad_with_bias" in tables
    assert printed.count("\n") <= 45
    assert {each["kernel"] for each in json.loads(path.read_text())} >= {"fprop", "dgrad", "wgrad"}
