"""The picture of speed, or on a CPU of time: one bar for each layer, pass and clock, beside the yardstick."""

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import compare
from bench.report.numbers import number
from bench.report.ratio_tables import columns
from bench.report.style import Style, heading, in_powers_of_two
from bench.report.summary import Comparison
from bench.report.summary_tables import costs
from bench.results import Results

# Inches: the height of a row; the width of a panel, of all panels at least, and of the names of layers. The last is the
# height of everything above and below the panels.
ROW, PANEL, PANELS, NAMES, REST = 0.17, 1.3, 4.6, 2.3, 1.6


def speed_picture(results: Results, comparison: Comparison, style: Style) -> Figure:
    """Draw a panel for each pass and clock. All panels have the same layers in the same rows, and the same scale.

    Bars and numbers are those of the tables: how many times as fast the contender is, or on a CPU how many times as
    long it takes. Held-out layers come last, and are in no mean.
    """
    panels = columns(comparison)
    rows = lines(comparison)
    drawn = [each for each in (comparison, comparison.held_out) if each]
    ratios = [comparison.shown(r) for each in drawn for found in each.ratios.values() for r in found.values()]
    size = (NAMES + max(PANEL * len(panels), PANELS), REST + ROW * len(rows))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axis, (of, clock) in zip(axes[0], panels, strict=True):
        bars(axis, comparison, {k: r for each in drawn for k, r in each.chosen(clock, of).items()}, of, rows, style)
        mean = comparison.mean(clock, of)
        assert mean is not None
        axis.set_title(f"{of}, {clock}\nmean {number(comparison.shown(mean))}", fontsize=9)
        in_powers_of_two(axis, min(*ratios, 0.9) / 1.1, max(*ratios, 1.1) * 1.1)
    first = axes[0][0]
    first.set_yticks(range(len(rows)), [layer or family for family, layer in rows], fontsize=7)
    first.set_ylim(len(rows) - 0.4, -0.6)
    for label, (_, layer) in zip(first.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if layer else "bold")
    names = comparison.contender, compare.NAMES[comparison.baseline]
    what = "time" if comparison.as_time else "speed"
    figure.supxlabel(f"{what} of {names[0]} over that of {names[1]}; blue: faster, orange: slower", fontsize=9)
    title = f"{names[0]} beside {names[1]} in {comparison.dtype}"
    heading(figure, "\n".join([title, *costs(comparison)]), results, style)
    return figure


def lines(comparison: Comparison) -> list[tuple[str, str | None]]:
    """Return the rows of each panel: each family's name, without a layer, and below it the family's layers.

    Families of held-out layers have a name that says so.
    """
    families = list(comparison.families.items())
    if comparison.held_out:
        families += [(f"held out: {family}", layers) for family, layers in comparison.held_out.families.items()]
    return [(family, layer) for family, layers in families for layer in (None, *layers)]


def bars(
    axis: Axes,
    comparison: Comparison,
    found: dict[tuple[str, str], float],
    of: str,
    rows: list[tuple[str, str | None]],
    style: Style,
) -> None:
    """Draw the bars of one panel from 1 to each number that is shown, and write the number at the right edge."""
    there = [(y, found[layer, of]) for y, (_, layer) in enumerate(rows) if layer and (layer, of) in found]
    colors = [style.faster if ratio > 1 else style.slower for _, ratio in there]
    values = [(y, comparison.shown(ratio)) for y, ratio in there]
    axis.barh([y for y, _ in values], [value - 1 for _, value in values], left=1, color=colors, height=0.7)
    for y, value in values:
        axis.text(1.02, y, number(value), transform=axis.get_yaxis_transform(), va="center_baseline", fontsize=7)
    axis.axvline(1, color=style.text, linewidth=0.8)
    axis.tick_params(axis="y", length=0)
