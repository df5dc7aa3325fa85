"""The scores against torch-fidelity's own functions on the same features, and their intervals against resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from arbench.evaluation import scores
from arbench.evaluation.intervals import fid_influences, fid_interval, is_interval, within_classes
from arbench.evaluation.statistics import FrechetStatistics, frechet

WIDTH = 16


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mix = random.normal(size=(WIDTH, WIDTH))
    ours = random.normal(size=(400, WIDTH)) @ mix + 0.3
    theirs = random.normal(size=(350, WIDTH)) @ (mix + 0.2 * random.normal(size=mix.shape))
    return ours.astype(np.float32), theirs.astype(np.float32)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return (3 * np.random.default_rng(1).normal(size=(403, 12))).astype(np.float32)


def test_fid_equals_torch_fidelity(features: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = (FrechetStatistics.of(part) for part in features)
    original = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(f)) for f in features), False)
    # torch-fidelity's mean is float32
    assert ours.distance(theirs) == pytest.approx(original["frechet_inception_distance"], rel=1e-5)


def test_fid_equals_a_square_root_of_matrices(features: tuple[np.ndarray, np.ndarray]) -> None:
    """In float64 throughout, of whatever network the features are: FD-DINOv2 is this of DINOv2's."""
    ours, theirs = (part.astype(np.float64) for part in features)
    gap, (a, b) = ours.mean(axis=0) - theirs.mean(axis=0), (np.cov(part, rowvar=False) for part in (ours, theirs))
    direct = gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real
    found, reference = (FrechetStatistics.of(part) for part in features)
    assert found.distance(reference) == pytest.approx(direct, rel=1e-6)
    assert frechet(found, reference).distance == pytest.approx(direct, rel=1e-6)


def test_inception_score_equals_torch_fidelity(logits: np.ndarray) -> None:
    original = isc_features_to_metric(torch.from_numpy(logits))
    score = scores.inception_splits(logits).scores
    assert score.mean() == pytest.approx(original["inception_score_mean"], rel=1e-12)
    assert score.std() == pytest.approx(original["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("whole", [scores.WHOLE_KERNEL, 0])
def test_kid_equals_torch_fidelity(
    features: tuple[np.ndarray, np.ndarray], whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "WHOLE_KERNEL", whole)
    tensors = [torch.from_numpy(part).double() for part in features]
    original = kid_features_to_metric(*tensors, kid_subset_size=100, kid_subsets=7, verbose=False)
    score = scores.kid(*features, subsets=7, subset_size=100)
    assert score.mean == pytest.approx(original["kernel_inception_distance_mean"], rel=1e-9)
    assert score.std == pytest.approx(original["kernel_inception_distance_std"], rel=1e-9)


@pytest.mark.parametrize("chunk_bytes", [scores.CHUNK_BYTES, 10_000])
def test_precision_recall_equals_torch_fidelity(
    features: tuple[np.ndarray, np.ndarray], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "CHUNK_BYTES", chunk_bytes)
    original = prc_features_to_metric(*(torch.from_numpy(part) for part in features), verbose=False)
    score = scores.precision_recall(*features)
    assert 0.2 < score.precision < 1  # a case that can tell
    assert score.precision == pytest.approx(original["precision"], abs=1e-6)  # torch-fidelity's mean is float32
    assert score.recall == pytest.approx(original["recall"], abs=1e-6)


def test_precision_recall_of_the_same_images_is_one(features: tuple[np.ndarray, np.ndarray]) -> None:
    found = scores.precision_recall(features[0], features[0])
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_inception_score_does_not_depend_on_class_order() -> None:
    classes = np.arange(1000) % 10
    peaked = 20.0 * np.eye(10)
    assert scores.inception_splits(peaked[np.sort(classes)]).scores.mean() > 9.5  # unshuffled blocks would give 1
    assert scores.inception_splits(peaked[classes]).scores.mean() == pytest.approx(10, rel=0.05)


def test_inception_score_of_few_images() -> None:
    assert scores.inception_splits(np.eye(4)).scores.mean() == 1  # one image a split says nothing
    assert len(scores.inception_splits(np.eye(4)).scores) == 4
    with pytest.raises(ValueError, match="no images"):
        scores.inception_splits(np.zeros((0, 4)))


def test_label_accuracy() -> None:
    logits = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])
    assert scores.label_accuracy(logits, np.array([0, 1, 2, 2])) == 0.75
    with pytest.raises(ValueError, match="3 labels for 4 images"):
        scores.label_accuracy(logits, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"knows 0\.\.2"):
        scores.label_accuracy(logits, np.array([0, 1, 2, 3]))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected over 3"):
        scores.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        scores.kid(np.zeros((1, 2)), np.zeros((9, 2)))


def test_fid_influence_is_the_derivative(features: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = features
    images, reference = FrechetStatistics.of(ours), FrechetStatistics.of(theirs)
    parts = frechet(images, reference)
    influences = fid_influences(ours, images, reference, parts)
    assert parts.distance == pytest.approx(images.distance(reference), rel=1e-9)
    small = 1e-5  # truncation error falls with it, rounding error grows
    for i in (0, 7):
        heavier = np.ones(len(ours))
        heavier[i] += small
        moved = weighted(ours, heavier).distance(reference) - weighted(ours, np.ones(len(ours))).distance(reference)
        # the mean of influences is taken out of a covariance divided by N - 1, where the weighted one has N
        assert moved / small * len(ours) == pytest.approx(influences[i], rel=5e-3)


def weighted(features: np.ndarray, weights: np.ndarray) -> FrechetStatistics:
    """Statistics of the distribution that puts `weights` on `features`."""
    weights = weights / weights.sum()
    mean = weights @ features
    scatter = (features - mean).T @ ((features - mean) * weights[:, None])
    return FrechetStatistics.from_moments(mean, scatter * len(features) / (len(features) - 1), len(features))


def test_fid_interval_has_the_spread_of_new_draws() -> None:
    random = np.random.default_rng(5)
    reference = FrechetStatistics.of(random.normal(size=(5000, 6)) + 0.5)
    widths, distances = [], []
    for _ in range(60):
        drawn = 1.2 * random.normal(size=(800, 6))
        images = FrechetStatistics.of(drawn)
        low, high = fid_interval(drawn, images, reference, frechet(images, reference))
        distances.append(images.distance(reference))
        assert low < distances[-1] < high
        widths.append(high - low)
    # 95 % of a normal distribution is 3.92 deviations; a deviation from 60 draws is known to about 9 %
    assert np.mean(widths) == pytest.approx(3.92 * np.std(distances), rel=0.25)


def test_is_interval_has_the_spread_of_new_draws() -> None:
    random = np.random.default_rng(6)
    widths, means = [], []
    for _ in range(60):
        splits = scores.inception_splits(2 * random.normal(size=(1000, 5)))
        low, high = is_interval(splits)
        means.append(splits.scores.mean())
        assert low < means[-1] < high
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(3.92 * np.std(means), rel=0.25)


def test_balanced_classes_are_resampled_within() -> None:
    random = np.random.default_rng(7)
    reference = FrechetStatistics.of(random.normal(size=(4000, 4)) * 3)
    centres, labels = 6 * random.normal(size=(10, 4)), np.arange(400) % 10
    widths, loose, distances = [], [], []
    for _ in range(40):
        drawn = centres[labels] + random.normal(size=(400, 4))
        images = FrechetStatistics.of(drawn)
        parts = frechet(images, reference)
        distances.append(parts.distance)
        low, high = fid_interval(drawn, images, reference, parts, labels)
        widths.append(high - low)
        low, high = fid_interval(drawn, images, reference, parts)
        loose.append(high - low)
    assert np.mean(widths) == pytest.approx(3.92 * np.std(distances), rel=0.3)  # a deviation from 40 draws: 11 %
    assert np.mean(loose) > 2 * np.mean(widths)  # as if the number of images of each class were chance


def test_unbalanced_or_tiny_classes_are_not_resampled_within() -> None:
    influences = np.random.default_rng(8).normal(size=40)
    for labels in (None, np.arange(40), np.minimum(np.arange(40), 1)):
        assert within_classes(influences, labels) is influences
    inside = within_classes(influences, np.arange(40) % 2)
    assert inside[::2].mean() == pytest.approx(0, abs=1e-12)
    assert inside[::2].std() == pytest.approx(influences[::2].std(ddof=1))
