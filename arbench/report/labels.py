"""Where the labels of points stand: beside their point, clear of other labels, markers, the legend and lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

FONT_SIZE = 8  # points
DARKER = 0.7  # labels are darker than their curves: small letters need more contrast than markers
MARKER_RADIUS = 4.0  # points
GAP = 5.0  # points between a marker's centre and its label
# Directions in the order in which they are tried; equal costs leave the first. The larger distance is for crowds, and a
# thin line leads back to the point.
DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1.4, 0), (-1.4, 0), (0, 1.4), (0, -1.4))
DISTANCES = (1.0, 2.4)
# What it costs to stand on each: outside the axes are their numbers, and over a line a label can still be read.
OUTSIDE, ON_LABEL, ON_MARKER, ON_LINE, FURTHER = 20.0, 10.0, 5.0, 1.0, 0.5
GROUND = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
ALIGNMENT = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is written beside the point (`x`, `y`), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def within(self, other: Bbox) -> bool:
        return self.left >= other.x0 and self.right <= other.x1 and self.bottom >= other.y0 and self.top <= other.y1

    def holds(self, points: np.ndarray) -> bool:
        """Whether any of `points` (P, 2) lies inside."""
        across = (points[:, 0] > self.left) & (points[:, 0] < self.right)
        return bool((across & (points[:, 1] > self.bottom) & (points[:, 1] < self.top)).any())


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[Label], lines: Sequence[Sequence[tuple[float, float]]]
) -> None:
    """Write `labels` one after another, each at its cheapest place; a point without text is kept clear all the same.

    `lines` are polylines in data coordinates. Everything else has to be drawn already: the layout decides the pixels
    that are compared.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    scale = figure.dpi / 72  # pixels a point
    legend = axes.get_legend()
    taken = [] if legend is None else [_box(legend.get_window_extent(renderer))]  # one beside the axes is outside
    centres = axes.transData.transform([(label.x, label.y) for label in labels])
    radius = MARKER_RADIUS * scale
    markers = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    strokes = [_dense(axes, line) for line in lines]
    for label, centre in zip(labels, centres, strict=True):
        if not label.text:
            continue
        written = _write(axes, label)
        extent = written.get_window_extent(renderer)
        size = (extent.width, extent.height)
        places = [(offset, _beside(centre, offset, size, scale)) for offset in _offsets()]
        offset, box = min(places, key=lambda place: _cost(place[0], place[1], taken, markers, strokes, axes.bbox))
        written.set(position=offset, ha=_alignment(offset[0], 0), va=_alignment(offset[1], 1))
        if _is_far(offset):
            _lead(axes, label, offset, scale)
        taken.append(box)


def _write(axes: Axes, label: Label) -> Annotation:
    """The label as an annotation that takes no part in the layout, on a ground of white."""
    written = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=FONT_SIZE,
        color=tuple(DARKER * part for part in to_rgb(label.colour)),
        bbox=GROUND,
    )
    written.set_in_layout(False)
    return written


def _offsets() -> Iterator[tuple[float, float]]:
    """Places around a point, in points, nearest first."""
    for distance in DISTANCES:
        for across, up in DIRECTIONS:
            yield across * distance * GAP, up * distance * GAP


def _beside(centre: np.ndarray, offset: tuple[float, float], size: tuple[float, float], scale: float) -> Box:
    """The box of a text of that size whose nearest edge or corner lies at `offset` points from `centre`."""
    width, height = size
    left = centre[0] + offset[0] * scale - {1: 0.0, 0: width / 2, -1: width}[_sign(offset[0])]
    bottom = centre[1] + offset[1] * scale - {1: 0.0, 0: height / 2, -1: height}[_sign(offset[1])]
    return Box(left, bottom, left + width, bottom + height)


def _cost(
    offset: tuple[float, float],
    box: Box,
    taken: Sequence[Box],
    markers: Sequence[Box],
    strokes: Sequence[np.ndarray],
    frame: Bbox,
) -> float:
    cost = ON_LABEL * sum(box.meets(other) for other in taken)
    cost += ON_MARKER * sum(box.meets(other) for other in markers)
    cost += ON_LINE * sum(box.holds(stroke) for stroke in strokes)
    cost += OUTSIDE * (not box.within(frame))
    return cost + FURTHER * _is_far(offset)


def _is_far(offset: tuple[float, float]) -> bool:
    """Whether a label stands so far away that its point is not seen at once."""
    return max(map(abs, offset)) > 1.5 * GAP


def _lead(axes: Axes, label: Label, offset: tuple[float, float], scale: float) -> None:
    """A thin line from the point to its label."""
    start = axes.transData.transform((label.x, label.y))
    end = axes.transData.inverted().transform(start + np.array(offset) * scale)
    ends = (label.x, end[0]), (label.y, end[1])
    axes.plot(*ends, color=label.colour, linewidth=0.7, scalex=False, scaley=False)


def _dense(axes: Axes, line: Sequence[tuple[float, float]]) -> np.ndarray:
    """Points (P, 2) in pixels along a polyline, two apart at most; what leaves the axes ends at their edge."""
    frame = axes.bbox
    corners = np.clip(axes.transData.transform(line), (frame.x0, frame.y0), (frame.x1, frame.y1))
    pieces = [
        np.linspace(start, end, int(np.hypot(*(end - start)) / 2) + 2) for start, end in itertools.pairwise(corners)
    ]
    return np.concatenate(pieces) if pieces else corners


def _alignment(part: float, axis: int) -> str:
    return ALIGNMENT[_sign(part)][axis]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _box(extent: Bbox) -> Box:
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)
