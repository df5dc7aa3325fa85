"""Speed/accuracy curves: one a method, step counts on the points, hollow for published and solid for measured."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator

from arbench.machine.files import whole_file
from arbench.machine.plain_text import printable
from arbench.registry import unknown_name
from arbench.report.curves import Curve, axis_head, record_curves, without_intervals
from arbench.report.estimates import IMAGES, SEEDS, estimate
from arbench.report.labels import Label, place_labels
from arbench.report.looks import Look, curve_looks
from arbench.report.protocols import SCORE, TIME, Marks
from arbench.report.record import Record
from arbench.report.values import OF_TRAINING, TIMED, SeedGroup, group_seeds, is_score, quantity

FRONTIER = "#F0E442"  # Okabe and Ito's yellow, which is seen on the grey band too
SUFFIXES = (".png", ".svg", ".pdf")
NOTE_GAP = 0.4  # inches between a legend and the notes, and at the edges
LONG_LEGEND = 4  # curves; a longer legend stands beside the axes
TITLE_WIDTH, NOTE_WIDTH, LEGEND_WIDTH = 62, 130, 26  # characters a line
LOG_SPAN = 10.0  # an axis whose values span more than this factor is logarithmic
NARROWEST, WIDENED = 1e-9, 0.05  # parts of a value: a span below the first is rounding, and is widened by the second
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "arbench",  # element ids, and so the file, are the same at every run
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with a dollar is a name, no formula
}


def plot_records(
    records: Sequence[Record],
    path: str | Path,
    x: str = "seconds_per_image",
    y: str = "fid",
    published: Sequence[Curve] = (),
    title: str = "",
    *,
    intervals: bool = True,
) -> Path:
    """Draw `y` over `x` for `records` into a PNG, SVG or PDF by suffix; returns the path.

    With `intervals` results have bars that span their 95 % intervals.

    Raises ValueError where the suffix or a quantity is unknown, or no record has both quantities.
    """
    groups = group_seeds(records)
    marks = Marks()
    for group in groups:
        marks.add_record(group.first, names=(x, y))
    measured = record_curves(groups, x, y, marks)
    curves = [*(measured if intervals else map(without_intervals, measured)), *published]
    counted = () if published else groups  # printed scores are not from the number of images of ours
    heads = axis_head(x, counted), axis_head(y, counted)
    notes = [*_notes(marks, (x, y), bool(published)), *(bars_note(groups, (x, y)) if intervals else [])]
    return draw_curves(curves, path, *heads, title=title, notes=notes, log_x=False if x in OF_TRAINING else None)


def _notes(marks: Marks, axes: Sequence[str], published: bool) -> list[str]:
    """How scores and times were made, where that differs: among records, or from what is printed."""
    told_of = {SCORE: any(map(is_score, axes)), TIME: bool(set(axes) & set(TIMED))}
    kinds = [kind for kind, is_told in told_of.items() if is_told]
    told = [note for kind in kinds for note in marks.footnotes(kind)]
    return [f"{mark}: {text}" if mark else f"measured: {text}" for mark, text in told if mark or published]


def bars_note(groups: Sequence[SeedGroup], axes: Sequence[str]) -> list[str]:
    """What the bars are over."""
    found = [estimate(group, axis) for group in groups for axis in axes if quantity(axis).better]
    over = {one.over for one in found if one is not None} - {None}
    told = {SEEDS: "over seeds (Student's t)", IMAGES: "over the drawing of images (bootstrap)"}
    return [f"bars: 95 % interval {' or '.join(told[kind] for kind in told if kind in over)}"] if over else []


@dataclass(frozen=True, kw_only=True)
class Background:
    """What lies behind curves: a line through the points that no other beats, and a named band of `y`."""

    frontier: tuple[tuple[float, float], ...] = ()
    band: tuple[float, float] | None = None
    band_name: str = ""


def draw_curves(
    curves: Sequence[Curve],
    path: str | Path,
    x_head: str,
    y_head: str,
    title: str = "",
    notes: Sequence[str] = (),
    background: Background | None = None,
    numbers: str = "numbers: steps",
    log_x: bool | None = None,
) -> Path:
    """Write `curves` as a figure of 6.4 × 4.2 inches; the same curves give the same bytes.

    `numbers` says what is written beside the points; `log_x` whether that axis is logarithmic, whatever it spans.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise unknown_name("picture suffix", target.suffix, SUFFIXES)
    if not any(curve.points for curve in curves):
        raise ValueError(f"nothing to draw: no record has both {x_head!r} and {y_head!r}")
    curves = [replace(curve, name=printable(curve.name)) for curve in curves]
    with (
        matplotlib.style.context("default"),  # whatever the reader's matplotlibrc says
        matplotlib.rc_context(STYLE),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in another script: boxes show it
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        _scale_axes(axes, curves, log_x)
        looks = curve_looks([curve.name for curve in curves])
        behind = _draw_background(axes, background) if background is not None else {}
        handles = [_draw_curve(axes, curve, looks[curve.name]) for curve in curves]
        axes.set(xlabel=x_head, ylabel=y_head, title=textwrap.fill(printable(title), TITLE_WIDTH))
        _widen(axes)
        _legend(figure, axes, curves, handles, behind, numbers)
        if notes:
            text = "\n".join(textwrap.fill(printable(note), NOTE_WIDTH, subsequent_indent="    ") for note in notes)
            below = figure.supxlabel(text, fontsize=7, x=0.01, ha="left")
            _make_room(figure, below)
        _label_points(figure, axes, curves, looks)
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = target.suffix.lower()
        with whole_file(target) as partial:
            figure.savefig(partial, format=suffix[1:], dpi=200, metadata=_metadata(suffix))
    return target


def _draw_curve(axes: Axes, curve: Curve, look: Look) -> Any:
    """Draw `curve`; returns its line, which stands in the legend."""
    across, up = [point.x for point in curve.points], [point.y for point in curve.points]
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": look.line}
    style |= {"markersize": 6.5, "linewidth": 1.6, "capsize": 2.5}
    if curve.published:
        style |= {"markerfacecolor": "white", "linestyle": "--", "linewidth": 1.1}
    if not curve.joined or len(curve.points) == 1:
        style["linestyle"] = "none"
    errors: dict[str, Any] = {
        "xerr": _errors([(p.x, p.x_interval) for p in curve.points]),
        "yerr": _errors([(p.y, p.y_interval) for p in curve.points]),
    }
    return axes.errorbar(across, up, elinewidth=1.0, **errors, **style)[0]


def _draw_background(axes: Axes, background: Background) -> dict[str, Any]:
    """Draw it; returns its parts by their names in the legend."""
    parts: dict[str, Any] = {}
    if background.frontier:
        across, up = zip(*background.frontier, strict=True)
        (line,) = axes.plot(across, up, color=FRONTIER, linewidth=8, alpha=0.55, solid_capstyle="round", zorder=0.5)
        parts["frontier: none is both faster and better"] = line
    if background.band is not None:
        parts[background.band_name] = axes.axhspan(*background.band, color="#7F7F7F", alpha=0.25, linewidth=0, zorder=0)
    return parts


def _label_points(figure: Figure, axes: Axes, curves: Sequence[Curve], looks: dict[str, Look]) -> None:
    """Step counts beside the points, clear of each other, of markers, lines and error bars."""
    labels = [
        Label(x=point.x, y=point.y, text=point.label, colour=looks[curve.name].colour)
        for curve in curves
        for point in curve.points
    ]
    if not any(label.text for label in labels):
        return
    lines = [[(p.x, p.y) for p in curve.points] for curve in curves if curve.joined]
    for point in (point for curve in curves for point in curve.points):
        left, right = point.x_interval or (point.x, point.x)
        bottom, top = point.y_interval or (point.y, point.y)
        lines += [[(left, point.y), (right, point.y)], [(point.x, bottom), (point.x, top)]]
    place_labels(figure, axes, labels, lines)


def _scale_axes(axes: Axes, curves: Sequence[Curve], log_x: bool | None) -> None:
    """Logarithmic where positive values span more than `LOG_SPAN` (`log_x` decides its axis), with plain numbers."""
    for name, values in (
        ("x", [p.x for c in curves for p in c.points]),
        ("y", [p.y for c in curves for p in c.points]),
    ):
        asked = log_x if name == "x" else None
        if min(values) <= 0 or not (max(values) / min(values) > LOG_SPAN if asked is None else asked):
            continue
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _widen(axes: Axes) -> None:
    """Widen an axis on which all lie at one place but for rounding: on a logarithmic one its width would come to 0."""
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = limits
        if high - low < NARROWEST * max(abs(low), abs(high)):
            set_limits(low - abs(low) * WIDENED, high + abs(high) * WIDENED)


def _legend(
    figure: Figure, axes: Axes, curves: Sequence[Curve], handles: list[Any], behind: dict[str, Any], numbers: str
) -> None:
    """Inside the axes while it is short, beside them where it would cover points."""
    if len(curves) < 2 and not behind and not any(curve.published for curve in curves):
        return
    names = [f"{curve.name}, published" if curve.published else curve.name for curve in curves]
    names, handles = [textwrap.fill(name, LEGEND_WIDTH) for name in (*names, *behind)], [*handles, *behind.values()]
    labelled = any(point.label for curve in curves for point in curve.points)
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "title_fontsize": 8}
    style["title"] = numbers if labelled and numbers else None
    if len(names) > LONG_LEGEND:
        figure.legend(handles, names, loc="outside right upper", **style)
    else:
        axes.legend(handles, names, **style)


def _make_room(figure: Figure, below: Text) -> None:
    """Let the figure grow where the legend beside the axes and the notes `below` do not fit above one another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    parts = (below, *figure.legends)
    needed = sum(part.get_window_extent(renderer).height for part in parts) / figure.dpi + NOTE_GAP
    if figure.legends and needed > figure.get_figheight():
        figure.set_figheight(needed)


def _errors(places: list[tuple[float, tuple[float, float] | None]]) -> list[list[float]] | None:
    """How far the bars reach below and above each place, None where none has any."""
    if all(interval is None for _, interval in places):
        return None
    spans = [(place, interval or (place, place)) for place, interval in places]
    return [[place - low for place, (low, _) in spans], [high - place for place, (_, high) in spans]]


def _metadata(suffix: str) -> dict[str, Any]:
    """No dates and no versions in the file: equal curves, equal bytes."""
    return {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }[suffix]
