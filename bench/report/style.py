"""How pictures look: a light and a dark style, logarithmic axes, and the line that names the run."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor, log2
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.results import Results

DPI = 130
# Pictures have few colours, and a palette makes the files a third as large. An octree keeps rare colours as they are.
PALETTE, METHOD = 256, Image.Quantize.FASTOCTREE


@dataclass(frozen=True)
class Style:
    """The colours of a picture, which colour-blind readers can tell apart: the palette of Okabe and Ito, or near it."""

    suffix: str
    background: str
    text: str
    faint: str
    faster: str
    slower: str
    contenders: dict[str, str]

    def color(self, contender: str) -> str:
        """Return the colour of a contender, without the memory format in its name."""
        return self.contenders.get(contender.split("-")[0], self.faint)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Draw figures in this style within the block."""
        edges = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
        colors: dict[str, Any] = dict.fromkeys(edges, self.text) | {"grid.color": self.faint}
        colors |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.background)
        with matplotlib.rc_context(rc=colors | {"legend.frameon": False, "axes.linewidth": 0.6}):  # type: ignore[arg-type]
            yield


LIGHT = Style(
    suffix="",
    background="#ffffff",
    text="#1f2328",
    faint="#8c959f",
    faster="#0072b2",
    slower="#d55e00",
    contenders={"torch": "#d55e00", "triton": "#0072b2", "reference": "#009e73", "loop": "#cc79a7"},
)
DARK = Style(
    suffix="-dark",
    background="#0d1117",
    text="#e6edf3",
    faint="#6e7681",
    faster="#56b4e9",
    slower="#e69f00",
    contenders={"torch": "#e69f00", "triton": "#56b4e9", "reference": "#2fc79a", "loop": "#e3a3c6"},
)
STYLES = (LIGHT, DARK)


def heading(figure: Figure, title: str, results: Results, style: Style) -> None:
    """Write the title above the picture, and then the run that it shows.

    If the run is a sample or a rehearsal, this is written across the picture.
    """
    environment = results["environment"]
    where = environment["gpu"] or environment["cpu"]
    run = f"torch {environment['torch']}, commit {environment['commit']}, {environment['date'][:10]}"
    figure.suptitle(f"{title}\n{where}\n{run}", fontsize=9, x=0.01, ha="left", linespacing=1.3)
    mark = "SAMPLE" if "sample" in results else "REHEARSAL" if "rehearsal" in results else None
    if mark:
        figure.text(0.5, 0.5, mark, ha="center", va="center", fontsize=70, color=style.faint, alpha=0.3, rotation=30)


def save(figure: Figure, path: Path, about: Mapping[str, str]) -> Path:
    """Write the figure as a PNG with a palette and with `about` as its text fields, and close it. Return its path."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    pyplot.close(figure)
    fields = PngInfo()
    for name, value in about.items():
        fields.add_text(name, value)
    image = Image.open(drawn).convert("RGB").quantize(PALETTE, METHOD, dither=Image.Dither.NONE)
    image.save(path, optimize=True, pnginfo=fields)
    return path


def logarithmic(axis: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic with plain numbers, the more of them in each power of ten the less it spans."""
    scale = _logarithmic(axis, which)
    low, high = getattr(axis, f"get_{which}lim")()
    span = high / low
    subs = (1, 2, 3, 5, 7) if span < 10 else (1, 2, 5) if span < 30 else (1, 3) if span < 300 else (1,)
    scale.set_major_locator(LogLocator(subs=subs))


def in_powers_of_two(axis: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic from `low` to `high`, with at most five ticks at powers of two, one of them at 1."""
    scale = _logarithmic(axis, "x")
    first, last = ceil(log2(low)), floor(log2(high))
    step = max(1, ceil((last - first + 1) / 5))
    scale.set_major_locator(FixedLocator([2.0**n for n in range(first, last + 1) if n % step == 0]))
    axis.set_xlim(low, high)


def _logarithmic(axis: Axes, which: Literal["x", "y"]) -> Any:
    getattr(axis, f"set_{which}scale")("log")
    scale = getattr(axis, f"{which}axis")
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis=which, labelsize=7)
    axis.grid(axis=which, alpha=0.4, linewidth=0.5)
    axis.set_axisbelow(True)
    return scale
