"""Speed/accuracy curves: one a method, step counts on the points, hollow for published and solid for measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbench.registry import unknown_name
from arbench.report.record import Record
from arbench.report.tables import SAMPLING_COLUMNS, Marks, protocol_marks
from arbench.report.values import SCORES, SeedGroup, fid_name, group_seeds, protocol_key, quantity, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS = tuple(name for name in SAMPLING_COLUMNS if name != "num_iter")  # iterations are steps
SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by colour-blind readers (their yellow is lost on paper), each with its marker, so
# that a curve is known in print without colour too.
METHOD_LOOKS = {"MAR": ("#0072B2", "o"), "PAR": ("#D55E00", "s"), "AR": ("#009E73", "^")}
OTHER_LOOKS = (("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"), ("#7F7F7F", "<"))
LONG_LEGEND = 4  # curves; a longer legend stands beside the axes
LOG_SPAN = 10.0  # an axis whose values span more than this factor is logarithmic
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
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place on a curve; spreads are standard deviations over seeds."""

    x: float
    y: float
    x_spread: float | None = None
    y_spread: float | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that belong together: one method, measured by us or published; `joined` by a line or not."""

    name: str
    points: tuple[Point, ...]
    published: bool = False
    joined: bool = True


def plot_records(
    records: Sequence[Record],
    path: str | Path,
    x: str = "seconds_per_image",
    y: str = "fid",
    published: Sequence[Curve] = (),
    title: str = "",
) -> Path:
    """Draw `y` over `x` for `records` into a PNG, SVG or PDF by suffix; returns the path.

    Raises ValueError where the suffix or a quantity is unknown, or no record has both quantities.
    """
    groups = group_seeds(records)
    marks = protocol_marks(groups)
    curves = [*record_curves(groups, x, y, marks), *published]
    heads = axis_head(x, groups), axis_head(y, groups)
    notes = [f"{mark}: {text}" for mark, text in marks.footnotes() if mark] if {x, y} & set(SCORES) else []
    return draw_curves(curves, path, *heads, title=title, notes=notes)


def record_curves(groups: Sequence[SeedGroup], x: str, y: str, marks: Marks) -> list[Curve]:
    """One curve a method (a model, where a method has several), in order of its step counts or `x`.

    Scores of different protocols are never one curve: their names carry the mark of the protocol.
    """
    for name in (x, y):
        quantity(name)  # tells the nearest where there is none
    scored = bool({x, y} & set(SCORES))
    models = {(group.first["method"], group.first["model"]) for group in groups}
    # Over a setting, each combination of the others is a curve of its own.
    split = [name for name in varying(groups, SETTINGS) if name != x] if x in SETTINGS else []
    found: dict[str, list[SeedGroup]] = {}
    for group in groups:
        if isinstance(group.mean(x), (int, float)) and isinstance(group.mean(y), (int, float)):
            mark = marks.letter(protocol_key(group.first)) if scored else ""
            name = ", ".join([_curve_name(group, models), *_settings(group, split)])
            found.setdefault(f"{name} ({mark})" if mark else name, []).append(group)
    return [Curve(name=name, points=_points(members, x, y)) for name, members in found.items()]


def _points(groups: Sequence[SeedGroup], x: str, y: str) -> tuple[Point, ...]:
    """The points of one curve along their steps, each labelled with them."""
    telling = _telling(groups, x)
    across, up = quantity(x).scale, quantity(y).scale
    return tuple(
        Point(
            x=group.mean(x) * across,
            y=group.mean(y) * up,
            x_spread=_scaled(group.spread(x), across),
            y_spread=_scaled(group.spread(y), up),
            label=_point_label(group, telling),
        )
        for group in sorted(groups, key=lambda group: _rank(group, x))
    )


def _telling(groups: Sequence[SeedGroup], x: str) -> list[str]:
    """What tells the points of a curve apart beside the axis: their steps, and settings where steps do not."""
    if x == "steps" or x in SETTINGS:
        return []
    several = len({group.mean("steps") for group in groups}) < len(groups)
    return ["steps", *(varying(groups, SETTINGS) if several else ())]


def axis_head(name: str, groups: Sequence[SeedGroup] = ()) -> str:
    """The title of an axis with its unit; a FID says from how many images."""
    head = quantity(name).head.split(" ↓")[0].split(" ↑")[0]
    counts = {group.first["num_images"] for group in groups}
    if name == "fid" and len(counts) == 1:
        return head.replace("FID", fid_name(counts.pop()))
    return head


def draw_curves(
    curves: Sequence[Curve], path: str | Path, x_head: str, y_head: str, title: str = "", notes: Sequence[str] = ()
) -> Path:
    """Write `curves` as a figure of 6.4 × 4.2 inches; the same curves give the same bytes."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise unknown_name("picture suffix", target.suffix, SUFFIXES)
    if not any(curve.points for curve in curves):
        raise ValueError(f"nothing to draw: no record has both {x_head!r} and {y_head!r}")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        _scale_axes(axes, curves)
        looks = _looks(curves)
        for curve in curves:
            _draw_curve(axes, curve, *looks[curve.name])
        axes.set(xlabel=x_head, ylabel=y_head, title=title)
        _legend(figure, axes, curves)
        if notes:
            figure.supxlabel("\n".join(notes), fontsize=7, x=0.01, ha="left")
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=200, metadata=_metadata(target.suffix.lower()))
    return target


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str) -> None:
    across, up = [point.x for point in curve.points], [point.y for point in curve.points]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6.5, "linewidth": 1.6, "capsize": 2.5}
    if curve.published:
        style |= {"markerfacecolor": "white", "linestyle": "--", "linewidth": 1.1}
    if not curve.joined:
        style["linestyle"] = "none"
    name = f"{curve.name}, published" if curve.published else curve.name
    errors: dict[str, Any] = {
        "xerr": _errors([p.x_spread for p in curve.points]),
        "yerr": _errors([p.y_spread for p in curve.points]),
    }
    axes.errorbar(across, up, label=name, elinewidth=1.0, **errors, **style)
    for point in curve.points:
        if point.label:
            axes.annotate(
                point.label, (point.x, point.y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=colour
            )


def _looks(curves: Sequence[Curve]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name: a method looks the same in every figure, measured or published."""
    names = list(dict.fromkeys(curve.name for curve in curves))
    looks = {name: METHOD_LOOKS[name] for name in names if name in METHOD_LOOKS}
    free = [look for look in (*METHOD_LOOKS.values(), *OTHER_LOOKS) if look not in looks.values()]
    others = [name for name in names if name not in looks]
    return looks | {name: (free or OTHER_LOOKS)[i % len(free or OTHER_LOOKS)] for i, name in enumerate(others)}


def _scale_axes(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic where positive values span more than `LOG_SPAN`, with plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    for name, values in (
        ("x", [p.x for c in curves for p in c.points]),
        ("y", [p.y for c in curves for p in c.points]),
    ):
        if min(values) <= 0 or max(values) / min(values) <= LOG_SPAN:
            continue
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _legend(figure: Figure, axes: Axes, curves: Sequence[Curve]) -> None:
    """Inside the axes while it is short, beside them where it would cover points."""
    if len(curves) < 2 and not any(curve.published for curve in curves):
        return
    numbers = any(point.label for curve in curves for point in curve.points)
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "title_fontsize": 8}
    style["title"] = "numbers: steps" if numbers else None
    if len(curves) > LONG_LEGEND:
        figure.legend(loc="outside right upper", **style)
    else:
        axes.legend(**style)


def _curve_name(group: SeedGroup, models: set[tuple[str, str]]) -> str:
    method, model = group.first["method"], group.first["model"]
    return method.upper() if sum(1 for known, _ in models if known == method) == 1 else f"{method.upper()} {model}"


def _rank(group: SeedGroup, x: str) -> tuple[float, float]:
    """Curves run along their steps where those are known, so that a slower point is joined to its neighbours."""
    steps = group.mean("steps")
    return (float(steps) if x == "seconds_per_image" and steps is not None else 0.0, float(group.mean(x)))


def _point_label(group: SeedGroup, telling: Sequence[str]) -> str:
    """The number of steps, then each setting by name."""
    steps = group.mean("steps") if "steps" in telling else None
    settings = _settings(group, [name for name in telling if name != "steps"])
    return ", ".join([*([] if steps is None else [f"{steps:g}"]), *settings])


def _settings(group: SeedGroup, names: Sequence[str]) -> list[str]:
    """Settings with their names, as `guidance 2`."""
    values = ((name, group.mean(name)) for name in names)
    told = ((name, f"{v:g}" if isinstance(v, (int, float)) else str(v)) for name, v in values if v is not None)
    return [f"{quantity(name).title} {text}" for name, text in told]


def _errors(spreads: list[float | None]) -> list[float] | None:
    return None if all(spread is None for spread in spreads) else [spread or 0.0 for spread in spreads]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _metadata(suffix: str) -> dict[str, Any]:
    """No dates and no versions in the file: equal curves, equal bytes."""
    return {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }[suffix]
