"""Labels beside points of a picture, none of which overlaps another."""

from collections.abc import Iterable, Mapping, Sequence
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from bench.report.style import Style

# Rings around a point on which its label is tried, in points, and how many places each ring has.
RINGS, PLACES = (6, 9, 13, 18, 24, 31, 39, 48, 60, 75, 95), 16
Offset = tuple[float, float]
OFFSETS: list[Offset] = [
    (ring * cos(2 * pi * n / PLACES), ring * sin(2 * pi * n / PLACES)) for ring in RINGS for n in range(PLACES)
]
# The half of a marker's extent, and the distance that labels keep, in points.
MARKER, GAP = 2.5, 0.7


def place(
    axis: Axes,
    points: Mapping[str, tuple[float, float]],
    markers: Iterable[tuple[float, float]],
    size: float,
    style: Style,
) -> list[Annotation]:
    """Write each label near its point, clear of the other labels, and, where there is room, of the markers.

    The figure must have its final layout, because places are found in pixels. A label that had to move away gets a
    line to its point.
    """
    figure = axis.get_figure(root=True)
    assert isinstance(figure, Figure)
    pixel = figure.dpi / 72
    busy = [_box(x, y, MARKER * pixel, MARKER * pixel) for x, y in map(axis.transData.transform, markers)]
    taken: list[Bbox] = []
    drawn = []
    for label, point in sorted(points.items(), key=lambda each: each[1]):
        text = axis.annotate(label, point, (0, 0), textcoords="offset points", ha="center", va="center", fontsize=size)
        text.set_path_effects([withStroke(linewidth=1.5, foreground=style.background)])
        extent = text.get_window_extent()
        width, height = (each / 2 + GAP * pixel for each in (extent.width, extent.height))
        x, y = axis.transData.transform(point)
        boxes = {(dx, dy): _box(x + dx * pixel, y + dy * pixel, width, height) for dx, dy in OFFSETS}
        best = _best(boxes, axis.get_window_extent(), taken, busy)
        text.set_position(best)
        taken.append(boxes[best])
        if best[0] ** 2 + best[1] ** 2 > RINGS[1] ** 2:
            line = dict(arrowstyle="-", color=style.text, linewidth=0.4, shrinkA=3, shrinkB=2)
            axis.annotate("", point, best, textcoords="offset points", arrowprops=line)
        drawn.append(text)
    return drawn


def _best(boxes: Mapping[Offset, Bbox], frame: Bbox, taken: Sequence[Bbox], busy: Sequence[Bbox]) -> Offset:
    """Return the first offset whose box is inside the frame and clear of labels and markers, or at least of labels.

    If there is none, return the first offset of all.
    """
    inside = [at for at, box in boxes.items() if _within(box, frame)]
    free = [at for at in inside if not boxes[at].count_overlaps(taken)]
    clear = (at for at in free if not boxes[at].count_overlaps(busy))
    return next(clear, next(iter(free), next(iter(boxes))))


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """Return the box around a centre, from half its width and height."""
    return Bbox.from_extents(x - width, y - height, x + width, y + height)


def _within(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and frame.y0 <= box.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1)
