"""Curves of records: one a method, its points along their steps or a setting, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arbench.generators.methods import all_settings
from arbench.report.estimates import estimate
from arbench.report.protocols import Marks
from arbench.report.values import (
    OF_TRAINING,
    SeedGroup,
    fid_name,
    method_name,
    quantity,
    setting_text,
    split_score,
    varying,
)
from arbench.settings import NUM_ITER

Training = tuple[str, str, str]  # method, model, name
CROWD = 8  # points of a curve; with more, only their steps are written beside them


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place on a curve, with the 95 % intervals of its numbers where they are known."""

    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that belong together: one method, measured by us or published; `joined` by a line or not."""

    name: str
    points: tuple[Point, ...]
    published: bool = False
    joined: bool = True


def other_settings() -> tuple[str, ...]:
    """The settings beside the iterations, which are steps."""
    return tuple(name for name in all_settings() if name != NUM_ITER.name)


def record_curves(groups: Sequence[SeedGroup], x: str, y: str, marks: Marks) -> list[Curve]:
    """One curve a method (a model or a tokenizer, where there are several), in order of its step counts or `x`.

    Scores and times of different protocols are never one curve: their names carry the marks of the protocols. Points
    are joined where one thing varies, the steps or a setting; where several do, the line would tell nothing.
    """
    for name in (x, y):
        quantity(name)  # tells the nearest where there is none
    split, found = _split(groups, x), dict[str, list[SeedGroup]]()
    for group in groups:
        if isinstance(group.mean(x), (int, float)) and isinstance(group.mean(y), (int, float)):
            mark = ", ".join(dict.fromkeys(filter(None, (marks.of(axis, group.first) for axis in (x, y)))))
            name = ", ".join([_curve_name(group, groups), *_settings(group, split[_training(group)])])
            found.setdefault(f"{name} ({mark})" if mark else name, []).append(group)
    return [
        Curve(name=name, points=_points(members, x, y), joined=len(_varied(members)) <= 1)
        for name, members in found.items()
    ]


def _split(groups: Sequence[SeedGroup], x: str) -> dict[Training, list[str]]:
    """The settings by which the curves of each training are told apart: each combination of them is one of its own.

    Over a setting these are all others; over the steps of a training those that its own evaluations differ in.
    """
    trainings: dict[Training, list[SeedGroup]] = {}
    for group in groups:
        trainings.setdefault(_training(group), []).append(group)
    if x in OF_TRAINING:
        return {training: varying(members, tuple(all_settings())) for training, members in trainings.items()}
    others = [name for name in varying(groups, other_settings()) if name != x] if x in other_settings() else []
    return dict.fromkeys(trainings, others)


def _training(group: SeedGroup) -> Training:
    """Method, model and name of the training whose weights these are."""
    return group.first["method"], group.first["model"], str(group.first["source"].get("trained_in"))


def _varied(groups: Sequence[SeedGroup]) -> list[str]:
    """What varies along a curve; a head whose steps are all that the generator takes is not counted twice."""
    twice = all(group.mean("head_steps") == group.mean("steps") for group in groups)
    return [
        name for name in varying(groups, ("params_m", "steps", *other_settings())) if name != "head_steps" or not twice
    ]


def _points(groups: Sequence[SeedGroup], x: str, y: str) -> tuple[Point, ...]:
    """The points of one curve along their steps, each labelled with them."""
    telling, varied = _telling(groups, x), varying(groups, tuple(all_settings()))
    across, up = quantity(x).scale, quantity(y).scale
    return tuple(
        Point(
            x=group.mean(x) * across,
            y=group.mean(y) * up,
            x_interval=_interval(group, x, across),
            y_interval=_interval(group, y, up),
            label=_point_label(group, telling),
        )
        for group in sorted(groups, key=lambda group: _rank(group, x, varied))
    )


def _telling(groups: Sequence[SeedGroup], x: str) -> list[str]:
    """What tells the points of a curve apart beside the axis: their steps, and settings where steps do not."""
    if x == "steps" or x in OF_TRAINING or x in other_settings():
        return []
    several = len({group.mean("steps") for group in groups}) < len(groups)
    return ["steps", *(varying(groups, other_settings()) if several and len(groups) <= CROWD else ())]


def axis_head(name: str, groups: Sequence[SeedGroup] = ()) -> str:
    """The title of an axis with its unit; a FID says from how many images."""
    head = quantity(name).head.split(" ↓")[0].split(" ↑")[0]
    counts = {group.first["num_images"] for group in groups}
    if split_score(name)[0] == "fid" and len(counts) == 1:
        return head.replace("FID", fid_name(counts.pop()))
    return head


def _parts(group: SeedGroup) -> dict[str, str]:
    """Model, tokenizer, training, and what an experiment changed in the model's configuration, as they are written."""
    config = group.first["source"].get("config") or {}
    told = {
        key: f"{'' if value else 'no '}{key}" if isinstance(value, bool) else f"{key} {value}"
        for key, value in config.items()
    }
    named = {key: str(group.first[key]) for key in ("model", "tokenizer")}
    if "trained_in" in group.first["source"]:
        named["trained_in"] = str(group.first["source"]["trained_in"])
    return named | {key: text.replace("_", " ") for key, text in told.items()}


def _curve_name(group: SeedGroup, groups: Sequence[SeedGroup]) -> str:
    """The method, then what tells its curves apart."""
    others = [_parts(other) for other in groups if other.first["method"] == group.first["method"]]
    telling = [text for key, text in _parts(group).items() if len({other.get(key) for other in others}) > 1]
    return " ".join([method_name(group.first["method"]), ", ".join(telling)]).rstrip()


def _rank(group: SeedGroup, x: str, varied: Sequence[str]) -> tuple:
    """Over time, curves run along their steps and settings: a point that was slower by chance keeps its place."""
    if x != "seconds_per_image":
        return (float(group.mean(x)),)
    steps = group.mean("steps")
    settings = (quantity(name).rank(group.mean(name)) for name in varied)
    return float(steps) if steps is not None else 0.0, *settings, float(group.mean(x))


def _point_label(group: SeedGroup, telling: Sequence[str]) -> str:
    """The number of steps, then each setting by name."""
    steps = group.mean("steps") if "steps" in telling else None
    settings = _settings(group, [name for name in telling if name != "steps"])
    return ", ".join([*([] if steps is None else [f"{steps:g}"]), *settings])


def _settings(group: SeedGroup, names: Sequence[str]) -> list[str]:
    """Settings with their names, as `guidance 2`."""
    values = ((name, group.mean(name)) for name in names)
    return [setting_text(name, value) for name, value in values if value is not None]


def _interval(group: SeedGroup, name: str, scale: float) -> tuple[float, float] | None:
    """The 95 % interval of a result; a setting or a count has none."""
    found = estimate(group, name) if quantity(name).better else None
    if found is None or found.interval is None:
        return None
    low, high = found.interval
    return low * scale, high * scale


def without_intervals(curve: Curve) -> Curve:
    """The same curve without error bars."""
    points = tuple(replace(point, x_interval=None, y_interval=None) for point in curve.points)
    return replace(curve, points=points)
