"""Labels beside points of a picture. None overlaps another, or a line of the picture."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import ceil, cos, pi, sin

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from numpy.typing import NDArray

from bench.report.style import Style

# Rings around a point on which its label is tried, in points, and how many places each ring has.
RINGS, PLACES = (6, 9, 13, 18, 24, 31, 39, 48, 60, 75, 95), 16
OFFSETS = numpy.array(
    [(ring * cos(2 * pi * n / PLACES), ring * sin(2 * pi * n / PLACES)) for ring in RINGS for n in range(PLACES)]
)
# The half of a marker's extent, the half of a line's width, and the distance that labels keep, in points.
MARKER, LINE, GAP = 2.5, 0.5, 0.7
# How many points of a line between a label and its point are tested.
STEPS = 24
# Points have two columns, x and y. Boxes have four: the smallest x and y, and the largest. Both are in pixels.
Points = NDArray[numpy.float64]
Boxes = NDArray[numpy.float64]


def place(
    axis: Axes,
    points: Mapping[str, tuple[float, float]],
    markers: Iterable[tuple[float, float]],
    lines: Iterable[Line2D],
    size: float,
    style: Style,
) -> list[Annotation]:
    """Write each label near its point, clear of other labels and of `lines`, and, where there is room, of the markers.

    The figure must have its final layout, because places are found in pixels. A label that is not right beside its
    point gets a thin line to it, which crosses no label.
    """
    figure = axis.get_figure(root=True)
    assert isinstance(figure, Figure)
    pixel = figure.dpi / 72
    frame = axis.get_window_extent()
    busy = _around(axis.transData.transform(list(markers)), MARKER * pixel, MARKER * pixel)
    written = numpy.empty((0, 4))
    taken = numpy.concatenate([written, *(_around(_along(line), LINE * pixel, LINE * pixel) for line in lines)])
    drawn = []
    for label, point in sorted(points.items(), key=lambda each: each[1]):
        text = axis.annotate(label, point, (0, 0), textcoords="offset points", ha="center", va="center", fontsize=size)
        text.set_path_effects([withStroke(linewidth=1.5, foreground=style.background)])
        extent = text.get_window_extent()
        at = axis.transData.transform(point)
        centres = at + OFFSETS * pixel
        boxes = _around(centres, extent.width / 2 + GAP * pixel, extent.height / 2 + GAP * pixel)
        ways = [_around(at + share * (centres - at), 0.0, 0.0) for share in numpy.linspace(0, 1, STEPS)]
        outside = (boxes[:, :2] < frame.min).any(1) | (boxes[:, 2:] > frame.max).any(1)
        crossing = numpy.any([_overlap(way, written) for way in ways], axis=0)
        # The first place with the smallest sum is the best. What is worse weighs more than all that follows.
        best = numpy.argmin(8 * outside + 4 * _overlap(boxes, taken) + 2 * crossing + _overlap(boxes, busy))
        offset = (float(OFFSETS[best, 0]), float(OFFSETS[best, 1]))
        text.set_position(offset)
        written = numpy.concatenate([written, boxes[best : best + 1]])
        taken = numpy.concatenate([taken, boxes[best : best + 1]])
        if best >= PLACES:
            taken = numpy.concatenate([taken, *(way[best : best + 1] for way in ways)])
            line = dict(arrowstyle="-", color=style.text, linewidth=0.4, shrinkA=3, shrinkB=2)
            axis.annotate("", point, offset, textcoords="offset points", arrowprops=line)
        drawn.append(text)
    return drawn


def _along(line: Line2D) -> Points:
    """Return points of a line, at most one pixel apart."""
    corners = line.get_transform().transform(line.get_xydata())
    parts = [numpy.linspace(start, end, ceil(numpy.abs(end - start).max()) + 1) for start, end in pairwise(corners)]
    return numpy.concatenate(parts)


def _around(centres: Points, width: float, height: float) -> Boxes:
    """Return the box around each centre, from half its width and height."""
    half = numpy.array([width, height])
    return numpy.concatenate([centres - half, centres + half], axis=1)


def _overlap(boxes: Boxes, others: Boxes) -> NDArray[numpy.bool_]:
    """Return for each box whether it overlaps one of the others."""
    found = numpy.zeros(len(boxes), dtype=numpy.bool_)
    near = _meet(others, boxes[:, :2].min(0), boxes[:, 2:].max(0))
    for other in others[near]:
        found |= _meet(boxes, other[:2], other[2:])
    return found


def _meet(boxes: Boxes, low: Points, high: Points) -> NDArray[numpy.bool_]:
    """Return for each box whether it overlaps the box from `low` to `high`."""
    left, bottom, right, top = boxes.T
    found: NDArray[numpy.bool_] = (left <= high[0]) & (right >= low[0]) & (bottom <= high[1]) & (top >= low[1])
    return found
