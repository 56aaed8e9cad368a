"""The picture of throughput over commits, where several runs of one machine are given."""

from collections.abc import Sequence

from matplotlib import pyplot
from matplotlib.figure import Figure

from bench.report import compare
from bench.report.style import Style, heading, logarithmic
from bench.results import Results, merged


def by_commit(runs: Sequence[Results]) -> list[Results]:
    """Return the runs from old to new, with those of one commit merged: they are processes of the same code."""
    commits: dict[str | None, list[Results]] = {}
    for run in sorted(runs, key=lambda run: str(run["environment"]["date"])):
        commits.setdefault(run["environment"]["commit"], []).append(run)
    return [merged(each) for each in commits.values()]


def over_commits(runs: Sequence[Results], contenders: Sequence[str], dtype: str, style: Style) -> Figure:
    """Draw a panel for each contender: the geometric mean of TFLOP/s of each pass, after each run.

    `runs` go from old to new. A run need not time all layers: the layers that it left out count with their earlier
    times. Only layers and passes that have a time after each run count.
    """
    known = [merged(runs[: i + 1]) for i in range(len(runs))]
    size = (1 + 4.5 * len(contenders), 4.2)
    figure, axes = pyplot.subplots(1, len(contenders), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, contender in zip(axes[0], contenders, strict=True):
        timed = [
            {p: row for p, row in compare.of(run["rows"], contender, dtype).items() if "tflops" in row} for run in known
        ]
        shared = set.intersection(*map(set, timed))
        axis.set_prop_cycle(color=[*style.contenders.values(), style.faint])
        for of in dict.fromkeys(pass_ for _, pass_ in timed[0]):
            means = [
                compare.geometric_mean(rows[p]["tflops"] for p in rows if p in shared and p[1] == of) for rows in timed
            ]
            if None not in means:
                axis.plot(range(len(runs)), means, marker="o", label=of)
        labels = [f"{run['environment']['commit']}\n{run['environment']['date'][:10]}" for run in runs]
        axis.set_xticks(range(len(runs)), labels, fontsize=7)
        axis.set_title(f"{contender}, {len({layer for layer, _ in shared})} layers", fontsize=10)
        axis.margins(x=0.2)
        logarithmic(axis, "y")
        if axis.lines:
            axis.legend(fontsize=8)
    axes[0][0].set_ylabel("TFLOP/s, geometric mean", fontsize=8)
    heading(figure, f"Throughput over commits, {dtype}", runs[-1], style)
    return figure
