"""Density, coverage, CMMD, MIND and standardised KID equal direct computations; intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from arbench.evaluation.intervals import held_interval, mean_interval, recall_interval, share_interval
from arbench.evaluation.kernels import cmmd, cubic, gaussian, mmd_interval, standardised
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.scores import density_coverage, kid, precision_recall
from arbench.evaluation.sliced import mind, squared_wasserstein
from arbench.images.data import open_data

RANDOM = np.random.default_rng(0)
OURS = RANDOM.standard_normal((70, 6)).astype(np.float32)
THEIRS = (RANDOM.standard_normal((50, 6)) * 1.2 + 0.3).astype(np.float32)
CLOSE = 1e-6  # of float64 sums in another order


def test_density_and_coverage_are_those_of_the_definition():
    reach = np.sort(cdist(THEIRS, THEIRS), axis=1)[:, 5]  # the nearest is the vector itself
    distances = cdist(THEIRS, OURS)
    inside = distances < reach[:, None]
    found = density_coverage(OURS, THEIRS)
    assert found.density.mean() == pytest.approx(inside.sum() / (5 * len(OURS)), abs=CLOSE)
    assert found.coverage == pytest.approx(inside.any(axis=1).mean(), abs=CLOSE)
    assert 0 < found.coverage < 1
    with pytest.raises(ValueError, match="expected over 5"):
        density_coverage(OURS, THEIRS[:5])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_density_and_coverage_equal_prdcs(scale):
    """As its authors' package computes them, with its own distances; torch-fidelity has neither."""
    prdc = pytest.importorskip("prdc")
    ours, theirs = scale * OURS + 5, scale * THEIRS + 5  # far from the origin, where products lose digits
    original = prdc.compute_prdc(theirs.astype(float), ours.astype(float), nearest_k=5)
    found = density_coverage(ours, theirs)
    assert found.density.mean() == pytest.approx(original["density"], abs=CLOSE)
    assert found.coverage == pytest.approx(original["coverage"], abs=CLOSE)


def test_cmmd_is_that_of_the_definition():
    def kernel(x, y):
        return np.exp(-((x.astype(float) - y.astype(float)) ** 2).sum() / 200)

    pairs = [np.mean([[kernel(x, y) for y in b] for x in a]) for a, b in ((OURS, OURS), (THEIRS, THEIRS))]
    across = np.mean([[kernel(x, y) for y in THEIRS] for x in OURS])
    assert cmmd(OURS, THEIRS) == pytest.approx(1000 * (sum(pairs) - 2 * across), rel=CLOSE)
    assert cmmd(OURS, OURS) == pytest.approx(0, abs=1e-9)


def test_mind_is_the_mean_squared_distance_of_sorted_projections():
    theirs = RANDOM.standard_normal((70, 6))
    drawn = np.random.default_rng(0).standard_normal((1000, 6))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    gaps = np.sort(OURS.astype(float) @ drawn.T, axis=0) - np.sort(theirs @ drawn.T, axis=0)
    assert mind(OURS, theirs) == pytest.approx(np.square(gaps).mean(), rel=CLOSE)
    # Of unequal numbers: as of the same sets repeated to a common one.
    repeated = [np.repeat(side, times, axis=0) for side, times in ((OURS, 5), (THEIRS, 7))]
    assert mind(OURS, THEIRS, 20) == pytest.approx(mind(*repeated, 20), rel=CLOSE)
    assert mind(OURS, OURS) == 0


def test_of_ordered_sets_the_distance_of_quantiles_is_the_earth_movers():
    low, high = np.sort(RANDOM.random((9, 1)), axis=0), np.full((4, 1), 2.0)
    gap = squared_wasserstein(np.zeros((9, 1)), high)
    assert gap == pytest.approx([4.0], rel=1e-12)
    assert squared_wasserstein(low, high)[0] >= wasserstein_distance(low[:, 0], high[:, 0]) ** 2


def test_standardised_features_make_kid_independent_of_their_scale():
    scale = np.array([0.01, 1, 5, 40, 3, 0.2], np.float32)
    plain, scaled = standardised(OURS, THEIRS), standardised(OURS * scale + 7, THEIRS * scale + 7)
    assert kid(*scaled).mean == pytest.approx(kid(*plain).mean, rel=1e-3)  # float32 went in
    assert plain[1].std(axis=0) == pytest.approx(np.ones(6), rel=1e-9)
    constant = np.hstack([OURS, np.ones((70, 1))]), np.hstack([THEIRS, np.ones((50, 1))])
    assert np.isfinite(standardised(*constant)[0]).all()


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_of_a_discrepancy_covers_the_true_one(shift):
    random = np.random.default_rng(1)
    big = random.standard_normal((1500, 4)), random.standard_normal((1500, 4)) + shift
    true = kid(*big, subsets=1, subset_size=1500).mean if shift else 0.0
    covered = 0
    for _ in range(60):
        ours, theirs = random.standard_normal((80, 4)), random.standard_normal((60, 4)) + shift
        size = {"subsets": 4, "subset_size": 60}
        low, high = mmd_interval(kid(ours, theirs, **size).mean, ours, theirs, cubic)
        covered += low <= true <= high
    assert covered >= 53  # of 60 at 95 %: 57; fewer than 53 has a chance of 1 %


def test_the_gaussian_kernel_of_a_vector_with_itself_is_one():
    assert np.diag(gaussian(OURS, OURS)) == pytest.approx(np.ones(70), abs=1e-12)


def test_a_share_has_wilsons_interval_also_at_its_ends():
    assert share_interval(1.0, 100) == pytest.approx([1 / (1 + 1.959964**2 / 100), 1.0], rel=1e-9)
    low, high = share_interval(0.5, 100)
    assert (low + high) / 2 == pytest.approx(0.5, abs=1e-12)
    assert share_interval(0.0, 10)[0] == 0.0


def test_what_an_image_holds_alone_is_lost_without_it():
    found = density_coverage(OURS, THEIRS)
    assert found.alone.max() > 0
    for i in range(len(OURS)):
        rest = np.delete(OURS, i, axis=0)
        assert found.coverage - found.alone[i] == pytest.approx(density_coverage(rest, THEIRS).coverage, abs=1e-12)


def test_balls_hold_what_a_part_of_the_images_would_hold():
    balls, random = precision_recall(OURS, THEIRS).balls, np.random.default_rng(4)
    for _ in range(10):
        kept = random.random(len(OURS)) < 0.7
        assert balls.share(kept, 3) == precision_recall(OURS[kept], THEIRS).recall


@pytest.mark.parametrize("count", [30, 120])
def test_intervals_of_recall_and_coverage_have_the_spread_of_both_sides(count):
    """Over the reference's images alone they were half as wide with few images as what a new draw gives."""
    random = np.random.default_rng(3)
    found: dict[str, list] = {"recall": [], "coverage": []}
    for _ in range(60):
        ours, theirs = random.standard_normal((count, 6)), random.standard_normal((150, 6))
        held, covered = precision_recall(ours, theirs), density_coverage(ours, theirs)
        found["recall"].append((held.recall, recall_interval(held.recall, held.balls, 3)))
        found["coverage"].append((covered.coverage, held_interval(covered.coverage, 150, covered.alone)))
    for name, drawn in found.items():
        spread = 3.92 * np.std([share for share, _ in drawn])  # a deviation of 60 draws is known to about 9 %
        width = np.mean([high - low for _, (low, high) in drawn])
        assert 0.8 * spread < width < (1.4 if name == "recall" else 1.6) * spread, name


def test_images_are_redrawn_within_classes_where_these_are_balanced():
    random, balanced = np.random.default_rng(5), np.arange(120) % 12
    held = precision_recall(random.standard_normal((120, 6)), random.standard_normal((150, 6)))
    plain = recall_interval(held.recall, held.balls, 3)
    assert recall_interval(held.recall, held.balls, 3, balanced) != plain
    assert recall_interval(held.recall, held.balls, 3, np.append(np.sort(balanced)[:117], (0, 0, 0))) == plain


def test_the_interval_of_a_mean_is_that_of_its_normal_draws():
    values = np.random.default_rng(2).random(400)
    low, high = mean_interval(values)
    # 1,000 draws leave each end uncertain by about a twentieth of the width
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_every_asked_for_metric_comes_with_its_interval():
    images = open_data("digits").images(range(60))
    metrics = ["precision", "recall", "kid", "density", "coverage", "cmmd", "mind", "label_accuracy"]
    labels = open_data("digits").labels[:60]
    found = evaluate(images, "digits-heldout", extractor="digits-cnn", metrics=metrics, labels=labels)
    spans = found["metric_protocol"]["measured"]["intervals"]
    assert set(metrics) - set(spans) == {"mind"}
    for name, (low, high) in spans.items():
        assert low <= found[name] <= high, name
    assert spans["kid"][0] < 0 < spans["kid"][1]  # real digits: nothing differs
    assert abs(found["kid"]) < 0.2  # of the size of Inception's, where raw features gave hundreds
    assert "standardised" in found["metric_protocol"]["kid"]
