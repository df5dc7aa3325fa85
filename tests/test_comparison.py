"""The comparison at a glance: one curve a family, the frontier, the band of real images."""

from __future__ import annotations

import pytest

from arbench.evaluation.floor import digits_floor
from arbench.report import plots
from arbench.report.comparison import comparison_curves, draw_comparison, frontier
from arbench.report.record import new_record
from arbench.report.values import group_seeds
from arbench.runs.compare import points, rounds

PROTOCOL = {"extractor": "digits-cnn", "reference": "digits-heldout"}


def record(model, fid, seconds, seed=0, **sampling):
    return new_record(
        method=model.split("-")[0],
        model=model,
        seed=seed,
        num_images=500,
        metrics={"fid": fid},
        metric_protocol={**PROTOCOL, "measured": {"intervals": {"fid": [fid - 2, fid + 3]}}},
        sampling=sampling,
        speed={"seconds_per_image": seconds, "steps": 8},
    )


RECORDS = [
    record("par-digits-16x", 39.0, 0.004),
    record("ar-digits", 17.0, 0.01),
    record("par-digits", 22.0, 0.011),  # slower than AR by chance: its place on the curve is that of its tokens
    record("mar-digits", 20.0, 0.05, num_iter=8),
    record("mar-digits", 24.0, 0.03, num_iter=4),
]


def test_ar_and_par_are_one_curve_by_tokens_a_step():
    family, masked = comparison_curves(group_seeds(RECORDS))
    assert (family.name, masked.name) == ("AR, PAR: tokens a step", "MAR: iterations")
    assert [(point.label, point.y) for point in family.points] == [("1", 17.0), ("4", 22.0), ("16", 39.0)]
    assert [point.label for point in masked.points] == ["4", "8"]
    assert family.joined
    assert family.points[0].y_interval == (15.0, 20.0)


def test_points_are_drawn_in_turn():
    drawn = rounds(points())
    numbers = [number for _, number in drawn]
    assert numbers == sorted(numbers)
    for turn in range(1 + max(numbers)):
        due = [point for point in points() if turn < point.method.compared_sets]
        now = [point for point, number in drawn if number == turn]
        assert sorted(map(repr, now)) == sorted(map(repr, due))
        assert [point.is_default for point in now] == sorted((point.is_default for point in now), reverse=True)


def test_the_frontier_is_what_none_beats_in_both():
    assert frontier([(3, 1), (1, 5), (2, 6), (4, 1), (2.5, 2)]) == ((1, 5), (2.5, 2), (3, 1))


def test_frontier_and_floor_are_drawn_and_named(tmp_path, monkeypatch):
    seen = {}
    draw = plots._draw_background

    def watched(axes, background):
        seen["background"], seen["axes"] = background, axes
        return draw(axes, background)

    monkeypatch.setattr(plots, "_draw_background", watched)
    one, other = (draw_comparison(RECORDS, tmp_path / f"{name}.svg", (9.9, 14.4)).read_bytes() for name in "ab")
    assert one == other
    assert seen["background"].frontier == ((0.004, 39.0), (0.01, 17.0))
    assert seen["background"].band == (9.9, 14.4)
    assert seen["axes"].get_xscale() == "log"
    assert seen["axes"].get_ylim()[0] < 9.9
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_comparison([{**RECORDS[0], "metrics": {}}], tmp_path / "never.png")


def test_the_floor_is_that_of_as_many_real_digits():
    low, high = digits_floor(500, draws=20)
    assert 8 < low < 12 < high < 16
    assert digits_floor(100, draws=20)[0] > high  # fewer images, a higher FID
    assert digits_floor(2 * 1437) is None
