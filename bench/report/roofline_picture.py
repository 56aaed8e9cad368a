"""The roofline: TFLOP/s of every layer over its operations per byte, below the ceilings measured in the same run."""

from collections.abc import Sequence
from math import ceil

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from bench.report import labels
from bench.report.compare import in_families
from bench.report.style import Style, heading, logarithmic
from bench.results import Results, Row
from bench.run.roof import memory_rate

MARKERS = {"torch": "x", "triton": "o", "reference": "s", "loop": "v"}
# Inches: the extent of a panel with few layers and with many; width of a column and height of a line of the key. The
# last is the height of everything above and below the panels.
PANEL, LARGE_PANEL, KEY, LINE, REST = 4.2, 5.4, 2.3, 0.135, 1.2
# If the key has at least MANY lines, panels are large and stand below each other. Else ABREAST stand beside each other.
# So the picture is narrow enough for its text to be read on a page.
MANY, ABREAST = 30, 2
# The label of the roofline's lines, by which `number_points` finds them.
ROOF = "_roof"


def roofline(results: Results, contenders: Sequence[str], dtype: str, style: Style) -> Figure:
    """Draw a panel for each pass. Points have numbers, and a key beside the panels has the names of their layers."""
    rows = [row for row in results["rows"] if (row["dtype"], row["status"]) == (dtype, "ok")]
    rows = [row for row in rows if row["contender"] in contenders]
    by_pass = {of: [row for row in rows if row["pass"] == of] for of in dict.fromkeys(row["pass"] for row in rows)}
    peak, copy = results["ceilings"][dtype], memory_rate(results["ceilings"])
    numbers, key = numbered(rows)
    figure, axes = panels(list(by_pass), key)
    for axis, own in zip(axes, by_pass.values(), strict=True):
        points(axis, own, style)
    low, high = min(row["tflops"] for row in rows), max(peak, *(row["tflops"] for row in rows))
    axes[0].set_ylim(low / 1.3, high * max(1.2, (high / low) ** 0.1))  # there is room for numbers above the roof
    ceilings(axes, peak, copy, style)
    shown = [
        Line2D([], [], linestyle="", marker=MARKERS.get(name, "^"), color=style.color(name), label=name)
        for name in contenders
    ]
    figure.legend(handles=shown, loc="outside lower right", ncols=len(shown), fontsize=8)
    moved = "in reading" if results["ceilings"].get("read", 0) > results["ceilings"]["copy"] else "in a copy"
    what = f"{peak:.4g} TFLOP/s in a matrix product and {copy:.4g} GB/s {moved}; dotted: half of that"
    heading(figure, f"Roofline in {dtype}: {what}", results, style)
    figure.canvas.draw()  # so that the layout is final before labels are placed
    figure.set_layout_engine("none")
    for axis, own in zip(axes, by_pass.values(), strict=True):
        number_points(axis, own, numbers, style)
    return figure


def panels(passes: Sequence[str], key: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with an empty panel for each pass, and with the key at the right, or in a place that is left."""
    extent, abreast = (LARGE_PANEL, 1) if len(key) >= MANY else (PANEL, ABREAST)
    down, across = ceil(len(passes) / abreast), min(len(passes), abreast)
    left = len(passes) < down * across
    columns = ceil(len(key) * LINE / (extent * (1 if left else down)))
    widths = [*[extent] * across, *([] if left else [KEY * columns])]
    figure = pyplot.figure(figsize=(sum(widths), REST + extent * down), layout="constrained")
    grid = figure.add_gridspec(down, len(widths), width_ratios=widths)
    axes: list[Axes] = []
    for n, of in enumerate(passes):
        shared = axes[0] if axes else None
        axes.append(figure.add_subplot(grid[n // across, n % across], sharex=shared, sharey=shared))
        axes[-1].set_title(of, fontsize=10)
    for axis in axes[::across]:
        axis.set_ylabel("TFLOP/s", fontsize=8)
    figure.supxlabel("operations per byte", fontsize=9)
    write_key(figure.add_subplot(grid[-1 if left else slice(None), -1]), key, ceil(len(key) / columns))
    return figure, axes


def numbered(rows: Sequence[Row]) -> tuple[dict[str, str], list[str]]:
    """Return the number of each layer, and the lines of the key: families, each with its numbered layers below.

    Held-out layers are marked.
    """
    numbers: dict[str, str] = {}
    held_out = {row["layer"] for row in rows if row.get("held_out")}
    key = []
    for family, layers in in_families({row["layer"]: row["family"] for row in rows}).items():
        key.append(family)
        for layer in layers:
            numbers[layer] = str(len(numbers) + 1)
            key.append(f"{numbers[layer]:>4}  {layer}{' (held out)' * (layer in held_out)}")
    return numbers, key


def at(row: Row) -> tuple[float, float]:
    """Return where the point of a row lies: operations per byte, and TFLOP/s."""
    return row["flops"] / row["bytes"], row["tflops"]


def points(axis: Axes, rows: Sequence[Row], style: Style) -> None:
    """Draw the points of one panel. A thin line joins the points of a layer, which lie one above the other."""
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = [at(row) for row in rows if row["layer"] == layer]
        axis.plot(*zip(*own, strict=True), color=style.faint, linewidth=0.6, zorder=1)
    for row in rows:
        marker, color = MARKERS.get(row["contender"], "^"), style.color(row["contender"])
        axis.scatter(*at(row), s=13, linewidths=1, marker=marker, color=color, zorder=2)


def ceilings(axes: Sequence[Axes], peak: float, copy: float, style: Style) -> None:
    """Draw the roofline of both ceilings, and dotted half of it, across the width of every panel."""
    logarithmic(axes[0], "x")
    low, high = axes[0].get_xlim()
    ridge = peak * 1e3 / copy
    reach = [low, *([ridge] if low < ridge < high else []), high]
    for axis in axes:
        for share, line in ((1.0, "-"), (0.5, ":")):
            roof = [share * min(peak, x * copy / 1e3) for x in reach]
            axis.plot(reach, roof, line, color=style.text, linewidth=0.8, zorder=0, label=ROOF)
        logarithmic(axis, "x")
        logarithmic(axis, "y")
    axes[0].set_xlim(low, high)


def write_key(axis: Axes, key: Sequence[str], per_column: int) -> None:
    """Write the key from the top down, in columns; names of families are bold."""
    axis.axis("off")
    columns = ceil(len(key) / per_column)
    for n, line in enumerate(key):
        weight = "normal" if line.startswith(" ") else "bold"
        x, y = n // per_column / columns, 1 - (n % per_column + 0.5) / max(per_column, 30)
        axis.text(x, y, line, transform=axis.transAxes, fontsize=7, va="center", fontweight=weight)


def number_points(axis: Axes, rows: Sequence[Row], numbers: dict[str, str], style: Style) -> list[Annotation]:
    """Write each layer's number beside the highest of its points, and off the roofline."""
    highest: dict[str, tuple[float, float]] = {}
    for row in rows:
        number = numbers[row["layer"]]
        highest[number] = max(highest.get(number, (0.0, 0.0)), at(row), key=lambda point: point[1])
    roof = [line for line in axis.lines if line.get_label() == ROOF]
    return labels.place(axis, highest, [at(row) for row in rows], roof, 6.5, style)
