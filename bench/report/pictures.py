"""The pictures of a report, each in a light and a dark style: speed, a roofline, and throughput over commits."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from bench.report import tables
from bench.report.commits_picture import by_commit, over_commits
from bench.report.origin import is_rehearsal
from bench.report.roofline_picture import roofline
from bench.report.speed_picture import speed_picture
from bench.report.style import STYLES, Style, save
from bench.report.summary import Comparison
from bench.results import Results, merged
from bench.run.contenders import CONTENDERS


def draw(runs: Sequence[Results], folder: Path, stem: str, contenders: Sequence[str] = CONTENDERS) -> list[Path]:
    """Draw every picture of `runs` twice, as <stem>-<name>.png and <stem>-<name>-dark.png. Return the files.

    There are pictures of speed only for `contenders`. The text fields of each file say what it shows (`about`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture in pictures(runs, contenders).items():
        for style in STYLES:
            with style.applied():
                file = folder / f"{stem}-{name}{style.suffix}.png"
                drawn.append(save(picture(style), file, about(runs, name, style)))
    return drawn


# What pictures show of a row, of a row with times, of the run, and of the run's environment.
OF_ROW = ("layer", "family", "pass", "contender", "dtype", "status", "how", "held_out")
OF_TIMED = ("device_us", "wall_us", "host_us", "peak", "tflops", "flops", "bytes", "processes")
OF_RUN, OF_ENVIRONMENT = ("ceilings", "batch", "sample", "rehearsal"), ("gpu", "cpu", "torch", "commit", "date")


def about(runs: Sequence[Results], name: str, style: Style) -> dict[str, str]:
    """Return the text fields of a picture's file: its name, its style, and a hash of the data that it shows."""
    data = [
        [
            [run.get(field) for field in OF_RUN],
            [run["environment"].get(field) for field in OF_ENVIRONMENT],
            *([row.get(field) for field in (*OF_ROW, *OF_TIMED)] for row in run["rows"]),
        ]
        for run in runs
    ]
    digest = hashlib.sha256(json.dumps([name, data]).encode()).hexdigest()
    return {"picture": name, "style": style.suffix.removeprefix("-") or "light", "data": digest[:16]}


def pictures(runs: Sequence[Results], contenders: Sequence[str] = CONTENDERS) -> dict[str, Callable[[Style], Figure]]:
    """Return, by name, a function that draws each picture of what was timed in `runs`, taken together.

    There are pictures of speed only for `contenders`, and not of a rehearsal, which has no ratios. There are pictures
    over commits only of runs at several commits.
    """
    together, ordered = merged(runs), by_commit(runs)
    rows = together["rows"]
    found: dict[str, Callable[[Style], Figure]] = {}
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        timed = list(dict.fromkeys(r["contender"] for r in rows if (r["dtype"], r["status"]) == (dtype, "ok")))
        compared = [] if is_rehearsal(together) else [each for each in tables.compared(rows) if each[0] == dtype]
        for _, contender, baseline in compared:
            if contender in contenders and (comparison := Comparison.of(rows, contender, dtype, baseline)):
                found[comparison.picture] = partial(speed_picture, together, comparison)
        if timed and dtype in together["ceilings"]:
            found[f"roofline-{dtype}"] = partial(roofline, together, timed, dtype)
        if timed and len(ordered) > 1:
            found[f"commits-{dtype}"] = partial(over_commits, ordered, timed, dtype)
    return found
