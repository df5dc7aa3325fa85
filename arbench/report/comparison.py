"""The comparison of all methods at a glance: each along what it is made faster by, against time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arbench.generators.methods import get_preset, methods, presets
from arbench.report.curves import Curve, Point, axis_head
from arbench.report.estimates import estimate
from arbench.report.plots import Background, bars_note, draw_curves
from arbench.report.record import Record
from arbench.report.values import SeedGroup, group_seeds

X, Y = "seconds_per_image", "fid"


def draw_comparison(records: Sequence[Record], path: str | Path, floor: tuple[float, float] | None = None) -> Path:
    """Draw FID over time for `records`, a curve a family of methods, with the frontier; returns the path.

    `floor` is the band of FIDs that real images have. Raises ValueError where no record has both numbers.
    """
    groups = group_seeds(records)
    curves = comparison_curves(groups)
    points = [(point.x, point.y) for curve in curves for point in curve.points]
    background = Background(frontier=frontier(points), band=floor, band_name="real images (95 % of draws)")
    heads = axis_head(X, groups), axis_head(Y, groups) + " (lower is better)"
    told = [*bars_note(groups, (X, Y)), "below and left is better"]
    title = "Speed against accuracy"
    return draw_curves(
        curves, path, *heads, title=title, notes=["; ".join(told)], background=background, numbers="", log_x=True
    )


def comparison_curves(groups: Sequence[SeedGroup]) -> list[Curve]:
    """A curve a family of methods, its points in the order of what it is made faster by and labelled with it."""
    families: dict[str, list[tuple[float, Point]]] = {}
    for group in groups:
        time, fid = estimate(group, X), estimate(group, Y)
        if time is None or fid is None:
            continue
        place, name = traded(group)
        label = "" if place is None else f"{place:g}"
        point = Point(x=time.value, y=fid.value, x_interval=time.interval, y_interval=fid.interval, label=label)
        families.setdefault(name, []).append((time.value if place is None else place, point))
    return [
        Curve(name=name, points=tuple(point for _, point in sorted(found, key=lambda pair: pair[0])))
        for name, found in sorted(families.items())
    ]


def traded(group: SeedGroup) -> tuple[float | None, str]:
    """What the method of `group` is made faster by there, and the name of its curve, as `MAR: iterations`."""
    record = group.first
    method = methods().get(record["method"])
    if method is None or method.traded is None:
        return group.mean("steps"), record["method"].upper() if method is None else method.family
    setting, words = method.traded
    value: Any = record["sampling"].get(setting)
    if value is None and record["model"] in presets():
        value = get_preset(record["model"]).config.get(setting, 1)
    return value, f"{method.family}: {words}"


def frontier(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Those of `points` (x, y) that none is below in both, from left to right."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return tuple(kept)
