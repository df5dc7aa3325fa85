"""KID of real digits against real digits is 0 within its error, whatever way their classes were chosen."""

from __future__ import annotations

import numpy as np
import pytest

from arbench.evaluation import scores
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.sources import array_source
from arbench.evaluation.strata import SINGLE, Strata, strata_of
from arbench.images.data import open_data

SPLITS = 60
PER_CLASS = 17  # of 35 to 37 held-out images: two disjoint sets of one split


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = open_data("digits", split="heldout")
    return load_extractor("digits-cnn").extract(data.images()).features, data.labels


def balanced_halves(labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    members = [random.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    first, second = ([m[start : start + PER_CLASS] for m in members] for start in (0, PER_CLASS))
    return np.concatenate(first), np.concatenate(second)


def random_halves(labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = random.permutation(len(labels))
    return order[: 10 * PER_CLASS], order[10 * PER_CLASS : 20 * PER_CLASS]


def deviation_from_zero(digits: tuple[np.ndarray, np.ndarray], balanced: bool, stratified: bool) -> float:
    """Mean KID over repeated splits, in standard errors."""
    features, labels = digits
    random, found = np.random.default_rng(0), []
    for _ in range(SPLITS):
        first, second = (balanced_halves if balanced else random_halves)(labels, random)
        strata = {"classes": labels[first], "reference_classes": labels[second]} if stratified else {}
        found.append(scores.kid(features[first], features[second], **strata).mean)
    return float(np.mean(found) / (np.std(found, ddof=1) / np.sqrt(SPLITS)))


def test_real_against_real_is_zero(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Of balanced classes the stratified estimator is unbiased, of independent draws the plain one; not crosswise."""
    assert abs(deviation_from_zero(digits, balanced=True, stratified=True)) < 3
    assert deviation_from_zero(digits, balanced=True, stratified=False) < -10
    assert abs(deviation_from_zero(digits, balanced=False, stratified=False)) < 3
    assert deviation_from_zero(digits, balanced=False, stratified=True) > 10


def test_the_stratified_mean_weighs_classes_by_their_frequencies() -> None:
    labels = np.array([0, 1, 1, 0, 2, 1, 2, 0, 1])
    kernel = np.random.default_rng(0).normal(size=(9, 9))
    expected = 0.0
    for a in range(3):
        for b in range(3):
            block = kernel[np.ix_(labels == a, labels == b)]
            off = ~np.eye(len(block), dtype=bool) if a == b else np.ones(block.shape, bool)
            expected += (labels == a).mean() * (labels == b).mean() * block[off].mean()
    strata = Strata.of(9, labels)
    assert strata.mean_over_pairs(kernel) == pytest.approx(expected, rel=1e-12)

    random = np.random.default_rng(1)
    subsets = [random.choice(9, 5, replace=False) for _ in range(4000)]
    means = [strata.take(chosen).mean_over_pairs(kernel[np.ix_(chosen, chosen)]) for chosen in subsets]
    assert np.mean(means) == pytest.approx(expected, abs=4 * np.std(means) / np.sqrt(len(means)))


def test_one_kernel_for_all_subsets_gives_what_each_ones_own_does(
    digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = digits
    first, second = balanced_halves(labels, np.random.default_rng(0))
    sides, size = (features[first], features[second]), {"subsets": 5, "subset_size": 90}
    for classes in ({}, {"classes": labels[first], "reference_classes": labels[second]}):
        monkeypatch.setattr(scores, "WHOLE_KERNEL", len(features))
        once = scores.kid(*sides, **size, **classes)
        monkeypatch.setattr(scores, "WHOLE_KERNEL", 0)
        assert once == pytest.approx(scores.kid(*sides, **size, **classes), rel=1e-9)  # sums of another order


def test_subsets_that_are_the_whole_have_no_spread(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    first, second = balanced_halves(labels, np.random.default_rng(0))
    assert scores.kid(features[first], features[second]).std is None
    whole = scores.kid(features[first], features[second], subsets=3, subset_size=len(first) - 1)
    assert whole.std is not None
    assert whole.std > 0


@pytest.mark.parametrize(
    ("labels", "mode", "stratified"),
    [
        ([0, 1, 0, 1], "balanced", True),
        ([0, 1, 0, 1], "random", False),
        ([0, 0, 0, 1, 1], "given", True),
        ([0, 0, 0, 1], "given", False),  # no pair of class 1
        ([0, 1, 0, 1, 0], None, True),
        ([0, 1, 0, 0, 0, 1], None, False),  # uneven: they may have been drawn
        (None, "balanced", False),
    ],
)
def test_when_images_are_stratified(labels: list[int] | None, mode: str | None, stratified: bool) -> None:
    assert (strata_of(None if labels is None else np.array(labels), mode) is not None) == stratified


OWN_SCALE = "; features standardised by the reference"


def test_the_protocol_names_the_estimator() -> None:
    data = open_data("digits", split="heldout")
    chosen = np.concatenate([np.flatnonzero(data.labels == label)[:3] for label in range(10)])
    images, labels = data.images()[chosen], data.labels[chosen]
    classes = {"labels": labels, "extractor": "digits-cnn", "metrics": ["kid"]}

    both = evaluate(images, "digits-heldout", **classes)["metric_protocol"]
    assert both["kid"].endswith(f"seed 2020; stratified by class{OWN_SCALE}")
    only_reference = evaluate(images, "digits-heldout", **{**classes, "labels": None})["metric_protocol"]
    assert only_reference["kid"].endswith(f"; reference stratified by class, images as independent draws{OWN_SCALE}")
    neither = evaluate(array_source("drawn", images, labels, "random"), images, **classes)
    assert neither["metric_protocol"]["kid"].endswith(f"; images as independent draws{OWN_SCALE}")
    assert "kid_std" not in neither  # 30 of 30

    single = evaluate(images[::3], "digits-heldout", **{**classes, "labels": labels[::3]})["metric_protocol"]
    assert SINGLE in single["warnings"]
    assert SINGLE not in both["warnings"]
