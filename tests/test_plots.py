"""Curves of records: one a method, steps on the points, and the same bytes every time."""

from __future__ import annotations

import math

import pytest

from arbench import cli
from arbench.papers.experiment import load_experiment
from arbench.report.curves import Curve, Point, axis_head, record_curves
from arbench.report.looks import Look, curve_looks, method_looks
from arbench.report.plots import draw_curves, plot_records
from arbench.report.protocols import record_marks
from arbench.report.record import new_record, write_record
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
    return record_curves(groups, x, y, record_marks(group.first for group in groups))


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
    assert [point.y for point in curve.points] == [4.0]
    # Student's t of 2 degrees of freedom, over a root: 4.3027 / 3**0.5
    assert curve.points[0].y_interval == pytest.approx((4 - 2.4841, 4 + 2.4841), abs=1e-4)


def test_several_models_of_a_method_are_several_curves():
    names = [
        curve.name for curve in curves([record("mar", 8, 1, 1, model="mar-b"), record("mar", 8, 1, 1, model="mar-l")])
    ]
    assert names == ["MAR mar-b", "MAR mar-l"]


def test_settings_tell_points_of_equal_steps_apart():
    (curve,) = curves([record("ar", 64, 0.01, 6.0, cfg_scale=1.0), record("ar", 64, 0.02, 5.0, cfg_scale=2.0)])
    assert [point.label for point in curve.points] == ["64, guidance 1", "64, guidance 2"]


def test_points_are_joined_where_one_thing_varies():
    (steps,) = curves([record("mar", steps, steps, 1.0, cfg_scale=2.0) for steps in (4, 8)])
    (scale,) = curves([record("mar", 8, scale, 1.0, cfg_scale=scale) for scale in (1.0, 2.0)])
    (both,) = curves([record("mar", 8 * scale, scale, 1.0, cfg_scale=scale) for scale in (1, 2)])
    assert (steps.joined, scale.joined, both.joined) == (True, True, False)


def test_a_crowd_is_labelled_with_steps_alone():
    records = [record("mar", 8, 1.0 + scale, 1.0, cfg_scale=scale) for scale in range(9)]
    (curve,) = curves(records)
    assert {point.label for point in curve.points} == {"8"}


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


def test_a_readers_own_style_changes_nothing(tmp_path):
    import matplotlib

    plain = plot_records(RECORDS, tmp_path / "plain.png").read_bytes()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.family": "serif", "lines.markersize": 20}):
        assert plot_records(RECORDS, tmp_path / "styled.png").read_bytes() == plain


def test_published_points_are_hollow_and_measured_ones_solid():
    from matplotlib.figure import Figure

    from arbench.report import plots

    axes = Figure().subplots()
    points = (Point(x=1, y=1), Point(x=2, y=2))
    published, measured = (
        plots._draw_curve(axes, Curve(name="MAR", points=points, published=hollow), Look("#000000", "o"))
        for hollow in (True, False)
    )
    assert (published.get_markerfacecolor(), measured.get_markerfacecolor()) == ("white", "#000000")
    assert (published.get_linestyle(), measured.get_linestyle()) == ("--", "-")


def test_a_single_point_and_models_that_are_no_curve_have_no_line():
    from matplotlib.figure import Figure

    from arbench.report import plots

    axes = Figure().subplots()
    points = (Point(x=1, y=1), Point(x=2, y=2))
    for curve in (Curve(name="a", points=points[:1]), Curve(name="b", points=points, joined=False)):
        assert plots._draw_curve(axes, curve, Look("#000000", "o")).get_linestyle() == "None"


def test_a_method_looks_the_same_in_every_figure():
    names = ["others", "AR", "MAR, guidance 1", "MAR, guidance 2", "PAR par-xl-4x"]
    looks = curve_looks(names)
    assert looks["AR"] == method_looks()["AR"]
    assert looks["MAR, guidance 1"] == method_looks()["MAR"]
    assert looks["PAR par-xl-4x"] == method_looks()["PAR"]
    assert len(set(looks.values())) == len(names)


def test_forty_curves_are_told_apart_by_colour_and_marker_and_none_is_dashed_as_published_ones_are():
    looks = curve_looks(["AR", *(f"MAR, temperature {n}" for n in range(39))])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 40
    assert len({look.line for look in looks.values()}) > 1
    assert "--" not in {look.line for look in looks.values()}


def test_a_curve_is_drawn_in_its_look(tmp_path, monkeypatch):
    points = (Point(x=1, y=1), Point(x=2, y=2))
    axes, _, _ = drawn_labels(tmp_path, monkeypatch, [Curve(name=f"MAR, {n}", points=points) for n in range(20)])
    lines = [drawn[0] for drawn in axes.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    assert len({line.get_linestyle() for line in lines}) > 1


def drawn_labels(tmp_path, monkeypatch, curves, **told):
    """The figure of `curves`, its axes and the pixels of the labels beside its points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **how: figures.append(figure) or save(figure, *a, **how))
    draw_curves(curves, tmp_path / "curve.png", "x", "y", **told)
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return axes, {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}, renderer


def test_labels_of_close_points_stand_apart(tmp_path, monkeypatch):
    points = [
        Point(x=1 + 0.01 * (place % 3), y=1 + 0.01 * (place // 3), label=f"{place} of a crowd") for place in range(6)
    ]
    far = Curve(name="PAR", points=(Point(x=0, y=0, label="64"), Point(x=2, y=2, label="far, at the edge")))
    axes, boxes, renderer = drawn_labels(tmp_path, monkeypatch, [Curve(name="MAR", points=tuple(points)), far])
    assert len(boxes) == 8
    placed = list(boxes.values())
    assert [(a, b) for i, a in enumerate(placed) for b in placed[:i] if a.overlaps(b)] == []
    legend = axes.get_legend().get_window_extent(renderer)
    frame = axes.bbox
    for box in placed:
        assert not box.overlaps(legend)
        # half a pixel: text is measured in whole pixels, and hinted differently at different places
        assert frame.x0 - 0.5 <= box.x0
        assert box.x1 <= frame.x1 + 0.5


@pytest.mark.parametrize("notes", [2, 20])
def test_a_long_legend_and_many_notes_do_not_cover_one_another(tmp_path, monkeypatch, notes):
    many = [Curve(name=f"curve {name}", points=(Point(x=name, y=1),)) for name in range(12)]
    axes, _, renderer = drawn_labels(tmp_path, monkeypatch, many, notes=["a note on protocols"] * notes)
    figure = axes.figure
    below = next(text for text in figure.texts if "protocols" in text.get_text())
    assert figure.legends[0].get_window_extent(renderer).y0 > below.get_window_extent(renderer).y1
    assert (figure.get_figheight() > 4.2) == (notes == 20)  # and no higher than it has to be


def test_a_label_keeps_clear_of_an_error_bar(tmp_path, monkeypatch):
    """Another curve's bar runs upwards right beside the point, where its label would stand otherwise."""
    labelled = Curve(name="MAR", points=(Point(x=1, y=1, label="8"), Point(x=2, y=2)), joined=False)
    axes, alone, _ = drawn_labels(tmp_path, monkeypatch, [labelled])
    bar = axes.transData.transform((1.015, 1))[0]
    assert alone["8"].x0 < bar < alone["8"].x1
    barred = Curve(name="AR", points=(Point(x=1.015, y=1.5, y_interval=(0.8, 2.2)),))
    axes, beside, _ = drawn_labels(tmp_path, monkeypatch, [labelled, barred])
    bar = axes.transData.transform((1.015, 1))[0]
    assert not beside["8"].x0 < bar < beside["8"].x1


def test_steps_are_told_at_every_point_but_over_steps():
    assert [p.label for curve in curves(RECORDS) for p in curve.points] == ["4", "8", "16", "64"]
    assert {p.label for curve in curves(RECORDS, x="steps") for p in curve.points} == {""}


def test_two_tokenizers_are_two_curves():
    records = [{**RECORDS[0], "tokenizer": name} for name in ("digits-kl", "digits-vq")]
    assert [curve.name for curve in curves(records)] == ["MAR digits-kl", "MAR digits-vq"]


def test_what_an_experiment_changes_in_the_model_names_its_curve():
    from arbench.papers.collect import in_row_order

    def row(name, steps):
        made = record("ar", steps, 0.01, 5.0)
        return {**made, "source": {"kind": "measured", **experiment.row_source(name)}}

    experiment = load_experiment("digits/mar-fig6")
    found = in_row_order(experiment, [row("ar-no-cache", 64), RECORDS[0], row("ar", 64)])
    assert [made["source"]["row"] for made in found] == ["ar", "ar-no-cache"]
    assert [curve.name for curve in curves(found)] == ["AR", "AR no kv cache"]


def test_a_diffusion_transformer_is_one_curve_along_its_denoising_steps():
    records = [
        {**record("dit", steps, steps, 1.0, head_steps=steps), "sampling": {"head_steps": steps}} for steps in (50, 10)
    ]
    (curve,) = curves(records)
    assert (curve.name, curve.joined) == ("DiT", True)
    assert [point.label for point in curve.points] == ["10", "50"]


def test_times_of_two_devices_are_never_one_curve():
    records = [{**RECORDS[0], "hardware": {"name": name}} for name in ("A100", "H100")]
    assert [curve.name for curve in curves(records)] == ["MAR (a)", "MAR (b)"]
    assert [curve.name for curve in curves(records, x="steps", y="fid")] == ["MAR"]


def test_beside_printed_points_the_count_of_ours_stands_below(monkeypatch, tmp_path):
    from arbench.report import plots

    told = {}
    monkeypatch.setattr(plots, "draw_curves", lambda curves, path, *heads, **more: told.update(heads=heads, **more))
    printed = [Curve(name="MAR", points=(Point(x=0.3, y=1.97),), published=True)]
    plot_records(RECORDS, tmp_path / "curve.png", published=printed)
    assert told["heads"] == ("time (s/image)", "FID")
    assert told["notes"][0].startswith("measured: 500 images, extractor digits-cnn")
    plot_records(RECORDS, tmp_path / "curve.png")
    assert (told["heads"][1], told["notes"]) == ("FID-500", [])


def test_mistakes_name_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'\.png'"):
        plot_records(RECORDS, tmp_path / "curve.pn")
    with pytest.raises(ValueError, match="did you mean 'seconds_per_image'"):
        plot_records(RECORDS, tmp_path / "curve.png", x="second_per_image")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_records(RECORDS, tmp_path / "curve.png", y="recall")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves([], tmp_path / "curve.png", "x", "y")


def test_the_command_takes_the_short_name_of_a_metric(tmp_path, capsys):
    scored = new_record(
        method="mar",
        model="mar-digits",
        metrics={"is_mean": 9.0},
        metric_protocol=PROTOCOL,
        speed={"seconds_per_image": 0.1, "steps": 8},
    )
    stored = str(write_record(scored, tmp_path / "record.json"))
    for name in ("is", "is_mean"):
        assert cli.run_command(["plot", stored, "--y", name, "-o", str(tmp_path / f"{name}.svg")]) == 0
    assert (tmp_path / "is.svg").read_bytes() == (tmp_path / "is_mean.svg").read_bytes()
    assert cli.run_command(["plot", stored, "--y", "iss"]) == 2
    assert "did you mean 'is'?" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0.030003742906400177, 30.0, -2.0])
def test_a_span_of_rounding_alone_is_no_width_of_an_axis(place, tmp_path):
    """Two seeds may take the same time but for rounding; a logarithm then makes one number of both ends."""
    around = (place, place + 3 * math.ulp(place))
    points = (Point(x=place, y=place, label="8", x_interval=around, y_interval=around),)
    for log_x in (True, False):
        assert draw_curves([Curve(name="MAR", points=points)], tmp_path / "one.svg", "s", "FID", log_x=log_x).is_file()


def test_a_figure_of_one_point_says_why(tmp_path, monkeypatch, capsys):
    from arbench.cli import table as cli

    monkeypatch.chdir(tmp_path)
    cli.plot(["mar/fig6"], out=tmp_path / "one.svg")
    assert "one point: of the" in capsys.readouterr().err
    cli.plot(["digits/mar-fig6"], out=tmp_path / "many.svg")
    assert capsys.readouterr().err == ""
