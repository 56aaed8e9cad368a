"""The pictures of a report: sorted speed-ups, a roofline, and throughput over commits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.layers import FAMILIES
from bench.report import compare, tables
from bench.results import Results, Row, merged

COLORS = dict(zip(FAMILIES, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
MARKERS = {"torch": "x", "triton": "o", "reference": "s", "loop": "v"}


def save(figure: Any, path: Path, results: Results) -> Path:
    """Write the picture, with the run that it shows, and, across it, that it is only a sample if it is one."""
    environment = results["environment"]
    machine = environment["gpu"] or environment["cpu"]
    where = f"{machine}, torch {environment['torch']}, commit {environment['commit']}, {environment['date'][:10]}"
    figure.text(0.99, 0.005, where, ha="right", va="bottom", fontsize=7, color="0.4")
    mark = "SAMPLE" if "sample" in results else "REHEARSAL" if "rehearsal" in results else None
    if mark:
        figure.text(0.5, 0.5, mark, ha="center", va="center", fontsize=70, color="0.5", alpha=0.2, rotation=30)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return path


def draw(runs: Sequence[Results], folder: Path, stem: str) -> list[Path]:
    """The pictures of what was timed in `runs`, taken together; over commits where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    together = merged(runs)
    rows = together["rows"]
    drawn = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        timed = list(dict.fromkeys(r["contender"] for r in rows if (r["dtype"], r["status"]) == (dtype, "ok")))
        for _, contender, baseline in (each for each in tables.compared(rows) if each[0] == dtype):
            if compare.speedups(rows, contender, dtype, baseline):
                name = f"{stem}-{contender}{'-local' * (baseline == compare.SUBSTITUTE)}-{dtype}.png"
                drawn.append(speedup_bars(together, contender, dtype, folder / name, baseline))
        if timed and dtype in together["ceilings"]:
            drawn.append(roofline(together, timed, dtype, folder / f"{stem}-roofline-{dtype}.png"))
        if timed and len(runs) > 1:
            ordered = sorted(runs, key=lambda run: run["environment"]["date"])
            drawn.append(over_commits(ordered, timed, dtype, folder / f"{stem}-commits-{dtype}.png"))
    return drawn


def speedup_bars(results: Results, contender: str, dtype: str, path: Path, baseline: str = compare.BASELINE) -> Path:
    """One bar for each layer, sorted, for each pass: how many times as fast as the baseline, on a logarithmic scale."""
    rows: Sequence[Row] = results["rows"]
    found = compare.speedups(rows, contender, dtype, baseline)
    families = {row["layer"]: row["family"] for row in rows}
    passes = list(dict.fromkeys(name for _, name in found))
    most = max(sum(pass_ == name for _, pass_ in found) for name in passes)
    figure, axes = pyplot.subplots(
        1, len(passes), figsize=(4.6 * len(passes), 1.5 + 0.2 * most), squeeze=False, sharex=True
    )
    for axis, of in zip(axes[0], passes, strict=True):
        bars = sorted((value, layer) for (layer, pass_), value in found.items() if pass_ == of)
        values = [value for value, _ in bars]
        colors = [COLORS.get(families[layer], "0.3") for _, layer in bars]
        drawn = axis.barh(range(len(bars)), [value - 1 for value in values], left=1, color=colors)
        axis.bar_label(drawn, [f"{value:.2g}" for value in values], fontsize=6, padding=2)
        axis.set_yticks(range(len(bars)), [layer for _, layer in bars], fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{of}: geometric mean {compare.geometric_mean(values):.2f}", fontsize=10)
        axis.margins(x=0.15, y=0.01)
        logarithmic(axis, "x")
    over = f"{contender} over {tables.NAMES[baseline]} in {dtype}"
    figure.supxlabel(f"{over}: how many times as fast; above 1 is a win", fontsize=9)
    present = [family for family in FAMILIES if family in {families[layer] for layer, _ in found}]
    handles = [Rectangle((0, 0), 1, 1, color=COLORS[family]) for family in present]
    figure.legend(handles, present, loc="lower center", ncols=len(present), fontsize=8, bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    return save(figure, path, results)


def roofline(results: Results, contenders: Sequence[str], dtype: str, path: Path) -> Path:
    """TFLOP/s of every layer over its operations per byte, under the ceilings measured in the same run: by pass."""
    peak, copy = results["ceilings"][dtype], results["ceilings"]["copy"]
    rows = [row for row in results["rows"] if (row["dtype"], row["status"]) == (dtype, "ok")]
    ridge = peak * 1e3 / copy
    intensities = [*(row["flops"] / row["bytes"] for row in rows), ridge]
    reach = [min(intensities) / 1.5, ridge, max(intensities) * 1.5]
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    figure, axes = pyplot.subplots(1, len(passes), figsize=(4.4 * len(passes), 4.4), squeeze=False, sharey=True)
    for axis, of in zip(axes[0], passes, strict=True):
        for row in rows:
            if row["pass"] == of and row["contender"] in contenders:
                style = dict(marker=MARKERS.get(row["contender"], "^"), color=COLORS.get(row["family"], "0.3"))
                axis.scatter(row["flops"] / row["bytes"], row["tflops"], s=18, alpha=0.8, linewidths=1, **style)
        for share, line in ((1.0, "-"), (0.5, ":")):
            axis.plot(reach, [share * min(peak, x * copy / 1e3) for x in reach], line, color="black", linewidth=1)
        axis.set_title(of, fontsize=10)
        logarithmic(axis, "x")
        logarithmic(axis, "y")
    axes[0][0].set_ylabel("TFLOP/s")
    figure.supxlabel(
        f"operations per byte in {dtype}; lines: {peak:.4g} TFLOP/s in a matrix product, {copy:.4g} GB/s in a copy, "
        "and half of that",
        fontsize=9,
    )
    shown = [Line2D([], [], linestyle="", marker=MARKERS.get(n, "^"), color="black", label=n) for n in contenders]
    present = {row["family"] for row in rows}
    shown += [
        Line2D([], [], linewidth=5, color=COLORS[family], label=family) for family in FAMILIES if family in present
    ]
    figure.legend(handles=shown, fontsize=8, loc="lower center", ncols=len(shown), bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    return save(figure, path, results)


def over_commits(runs: Sequence[Results], contenders: Sequence[str], dtype: str, path: Path) -> Path:
    """The geometric mean of TFLOP/s in each pass, run by run: of the layers that were there from the first on.

    A run need not time all of them: what it left out counts as it was before.
    """
    known = [merged(runs[: i + 1]) for i in range(len(runs))]
    figure, axes = pyplot.subplots(1, len(contenders), figsize=(5 * len(contenders), 4), squeeze=False, sharey=True)
    for axis, contender in zip(axes[0], contenders, strict=True):
        timed = [
            {p: row for p, row in compare.of(run["rows"], contender, dtype).items() if "tflops" in row} for run in known
        ]
        shared = set.intersection(*map(set, timed))
        for of in dict.fromkeys(pass_ for _, pass_ in timed[0]):
            means = [
                compare.geometric_mean(rows[p]["tflops"] for p in rows if p in shared and p[1] == of) for rows in timed
            ]
            if None not in means:
                axis.plot(range(len(runs)), means, marker="o", label=of)
        labels = [f"{run['environment']['commit']}\n{run['environment']['date'][:10]}" for run in runs]
        axis.set_xticks(range(len(runs)), labels, fontsize=7)
        axis.set_title(f"{contender}, {len({layer for layer, _ in shared})} layers", fontsize=10)
        logarithmic(axis, "y")
        if axis.lines:
            axis.legend(fontsize=8)
    axes[0][0].set_ylabel(f"TFLOP/s in {dtype}, geometric mean")
    figure.tight_layout()
    return save(figure, path, runs[-1])


def logarithmic(axis: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic scale with plain numbers, at 1, 2 and 5, or at powers of ten where it spans many."""
    getattr(axis, f"set_{which}scale")("log")
    scale = getattr(axis, f"{which}axis")
    low, high = getattr(axis, f"get_{which}lim")()
    scale.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis=which, labelsize=7)
    axis.grid(axis=which, alpha=0.3)
