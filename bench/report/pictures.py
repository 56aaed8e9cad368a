"""The pictures of a report, each in a light and a dark style: speed, a roofline, and throughput over commits."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from bench.report import compare, tables
from bench.report.commits_picture import over_commits
from bench.report.roofline_picture import roofline
from bench.report.speed_picture import speed_picture
from bench.report.style import STYLES, Style, save
from bench.report.summary import Comparison
from bench.results import Results, merged
from bench.run.contenders import CONTENDERS


def draw(runs: Sequence[Results], folder: Path, stem: str, contenders: Sequence[str] = CONTENDERS) -> list[Path]:
    """Draw every picture of `runs` twice, as <stem>-<name>.png and <stem>-<name>-dark.png. Return the files.

    There are pictures of speed only for `contenders`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture in pictures(runs, contenders).items():
        for style in STYLES:
            with style.applied():
                drawn.append(save(picture(style), folder / f"{stem}-{name}{style.suffix}.png"))
    return drawn


def pictures(runs: Sequence[Results], contenders: Sequence[str] = CONTENDERS) -> dict[str, Callable[[Style], Figure]]:
    """Return, by name, a function that draws each picture of what was timed in `runs`, taken together.

    There are pictures of speed only for `contenders`, and pictures over commits only if there are several runs.
    """
    together = merged(runs)
    rows = together["rows"]
    found: dict[str, Callable[[Style], Figure]] = {}
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        timed = list(dict.fromkeys(r["contender"] for r in rows if (r["dtype"], r["status"]) == (dtype, "ok")))
        for _, contender, baseline in (each for each in tables.compared(rows) if each[0] == dtype):
            if contender in contenders and (comparison := Comparison.of(rows, contender, dtype, baseline)):
                name = f"{contender}{'-local' * (baseline == compare.SUBSTITUTE)}-{dtype}"
                found[name] = partial(speed_picture, together, comparison)
        if timed and dtype in together["ceilings"]:
            found[f"roofline-{dtype}"] = partial(roofline, together, timed, dtype)
        if timed and len(runs) > 1:
            ordered = sorted(runs, key=lambda run: run["environment"]["date"])
            found[f"commits-{dtype}"] = partial(over_commits, ordered, timed, dtype)
    return found
