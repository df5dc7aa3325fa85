"""Curves of records: one a method, steps on the points, and the same bytes every time."""

from __future__ import annotations

import pytest

from arbench.report.plots import Curve, Point, axis_head, draw_curves, plot_records, record_curves
from arbench.report.record import new_record
from arbench.report.tables import protocol_marks
from arbench.report.values import group_seeds

PROTOCOL = {"extractor": "digits-cnn", "reference": "digits-heldout"}


def record(method, steps, seconds, fid, *, seed=0, protocol=PROTOCOL, model=None, **sampling):
    return new_record(
        method=method,
        model=model or f"{method}-digits",
        seed=seed,
        num_images=500,
        sampling={"num_iter": steps, **sampling},
        metrics={"fid": fid},
        metric_protocol=protocol,
        speed={"seconds_per_image": seconds, "steps": steps},
    )


def curves(records, x="seconds_per_image", y="fid"):
    groups = group_seeds(records)
    return record_curves(groups, x, y, protocol_marks(groups))


RECORDS = [
    record("mar", 16, 0.04, 4.0),
    record("mar", 4, 0.01, 9.0),
    record("mar", 8, 0.02, 5.0),
    record("ar", 64, 0.02, 4.7),
]


def test_one_curve_a_method_along_its_steps():
    mar, ar = curves(RECORDS)
    assert (mar.name, ar.name) == ("MAR", "AR")
    assert [point.label for point in mar.points] == ["4", "8", "16"]
    assert [point.x for point in mar.points] == [0.01, 0.02, 0.04]


def test_seeds_become_error_bars():
    (curve,) = curves([record("mar", 8, 0.02, fid, seed=seed) for seed, fid in enumerate((3.0, 4.0, 5.0))])
    assert [(point.y, point.y_spread) for point in curve.points] == [(4.0, 1.0)]


def test_several_models_of_a_method_are_several_curves():
    names = [
        curve.name for curve in curves([record("mar", 8, 1, 1, model="mar-b"), record("mar", 8, 1, 1, model="mar-l")])
    ]
    assert names == ["MAR mar-b", "MAR mar-l"]


def test_settings_tell_points_of_equal_steps_apart():
    (curve,) = curves([record("ar", 64, 0.01, 6.0, cfg_scale=1.0), record("ar", 64, 0.02, 5.0, cfg_scale=2.0)])
    assert [point.label for point in curve.points] == ["64, guidance 1", "64, guidance 2"]


def test_over_a_setting_the_others_are_curves():
    records = [
        record("mar", 8, 0.02, fid, temperature=temperature, cfg_scale=scale)
        for scale, temperature, fid in ((1.0, 0.9, 5.0), (1.0, 1.0, 6.0), (2.0, 0.9, 4.0), (2.0, 1.0, 3.0))
    ]
    plain, guided = curves(records, x="temperature")
    assert (plain.name, guided.name) == ("MAR, guidance 1", "MAR, guidance 2")
    assert [(point.x, point.y, point.label) for point in guided.points] == [(0.9, 4.0, ""), (1.0, 3.0, "")]


def test_protocols_are_never_one_curve():
    other = record("mar", 8, 0.02, 1.0, protocol={**PROTOCOL, "reference": "digits-train"})
    assert [curve.name for curve in curves([RECORDS[0], other])] == ["MAR (a)", "MAR (b)"]


def test_a_record_without_the_quantity_is_no_point():
    assert curves(RECORDS, y="recall") == []


def test_axes_tell_units_and_the_count():
    assert axis_head("seconds_per_image") == "time (s/image)"
    assert axis_head("fid", group_seeds(RECORDS)) == "FID-500"


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_records_give_the_same_bytes(tmp_path, suffix):
    published = [Curve(name="MAR", points=(Point(x=0.3, y=1.97, label="64"),), published=True)]
    pictures = [plot_records(RECORDS, tmp_path / f"{n}.{suffix}", published=published) for n in range(2)]
    first, second = (picture.read_bytes() for picture in pictures)
    assert first == second


def test_published_points_are_hollow_and_measured_ones_solid(monkeypatch):
    from matplotlib.axes import Axes

    from arbench.report import plots

    fills = []
    monkeypatch.setattr(Axes, "errorbar", lambda *_, **style: fills.append(style.get("markerfacecolor")))
    axes = Axes.__new__(Axes)
    for published in (False, True):
        plots._draw_curve(axes, Curve(name="MAR", points=(Point(x=1, y=1),), published=published), "#000000", "o")
    assert fills == [None, "white"]


def test_mistakes_name_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'\.png'"):
        plot_records(RECORDS, tmp_path / "curve.pn")
    with pytest.raises(ValueError, match="did you mean 'seconds_per_image'"):
        plot_records(RECORDS, tmp_path / "curve.png", x="second_per_image")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_records(RECORDS, tmp_path / "curve.png", y="recall")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves([], tmp_path / "curve.png", "x", "y")
