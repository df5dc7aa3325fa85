"""95 % bootstrap intervals of FID and Inception Score at the price of one derivative.

Recomputing a 2,048-wide FID on a thousand resampled sets would take hours. Both scores are smooth functions of
averages over the images, so to first order a resampled score is the score plus the resampled mean of the images'
influences (the derivative of the score in the weight of each image; Hampel 1974, Efron's infinitesimal jackknife).
Those means are what is drawn. Where every class was asked for equally often, images are redrawn within their class:
how many there are of each is then no accident. The interval covers the drawing of the images; the reference is held
fixed, and the upward bias of FID from few images is not removed (resampling in full would add to it).
"""

from __future__ import annotations

import math

import numpy as np

from arbench.evaluation.balls import Balls
from arbench.evaluation.kernels import NORMAL
from arbench.evaluation.scores import IS_SPLITS, SplitScores
from arbench.evaluation.statistics import Frechet, FrechetStatistics

METHOD = (
    "95 % bootstrap over images (within balanced classes), linearised, 1000 draws, reference held fixed; "
    "shares by Wilson's score, recall and coverage over the reference's images and over these as well, recall by 200 "
    "redraws in which no image is its own neighbour, coverage by the jackknife; "
    "KID and CMMD as of normal draws of both sides"
)
DRAWS = 1000
REDRAWS = 200  # of a recall; the deviation of so many is known to 5 %
SEED = 0
LEVELS = (2.5, 97.5)  # per cent
ROWS = 1024  # features handled at once
LEAST_IN_CLASS = 10  # with fewer images the spread within a class is not known
LEAST_IN_SPLIT = 10  # with fewer the Inception Score is far too low, and the spread of its splits not known


def fid_interval(
    features: np.ndarray,
    images: FrechetStatistics,
    reference: FrechetStatistics,
    parts: Frechet,
    labels: np.ndarray | None = None,
) -> list[float]:
    """[low, high] of the FID of `images` (the statistics of `features`) against `reference`; never below 0."""
    influences = fid_influences(features, images, reference, parts)
    return score_interval(parts.distance, within_classes(influences, labels))


def score_interval(score: float, influences: np.ndarray) -> list[float]:
    """[low, high] of a score that is never below 0, from the (N,) influences of its images."""
    return _interval(score, influences, floor=0.0)


def difference_interval(difference: float, first: np.ndarray, second: np.ndarray) -> list[float]:
    """[low, high] of how much two scores differ, from the (N,) influences of images that were asked for in pairs.

    Both of a pair are drawn anew together.
    """
    return _interval(difference, first - second, floor=-math.inf)


def is_interval(splits: SplitScores, labels: np.ndarray | None = None) -> list[float]:
    """[low, high] of the mean over splits; never below 1, which is the least the score can be."""
    return _interval(float(splits.scores.mean()), within_classes(splits.influences, labels), floor=1.0)


def is_in_small_splits(count: int) -> bool:
    """Whether the splits of `count` images are too small for an interval of the Inception Score."""
    return count < LEAST_IN_SPLIT * IS_SPLITS


def share_interval(share: float, count: int) -> list[float]:
    """[low, high] of a share of `count` images, by Wilson's score: also at 0 and at 1 it has a width."""
    squared = NORMAL**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = NORMAL * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return [max(middle - half, 0.0), min(middle + half, 1.0)]


def held_interval(share: float, count: int, alone: np.ndarray, labels: np.ndarray | None = None) -> list[float]:
    """[low, high] of a share of the `count` images of a reference that N images hold, drawing both anew.

    Of the reference as `share_interval`; of the images by the jackknife, from what each of them (N,) holds `alone`.
    """
    influences = within_classes(len(alone) * (alone - alone.mean()), labels)
    return _of_both_sides(share, count, math.sqrt(float(influences.var()) / len(alone)))


def recall_interval(recall: float, balls: Balls, neighbours: int, labels: np.ndarray | None = None) -> list[float]:
    """[low, high] of a recall, drawing both sides anew.

    Of the reference as `share_interval`; of the images by the deviation of `REDRAWS` bootstrap samples of them, within
    balanced classes, of which an image that was drawn twice counts once: it would be its own nearest neighbour.
    """
    random, count = np.random.default_rng(SEED), len(balls.nearest)
    classes = labels if labels is not None and _are_balanced(labels) else np.zeros(count, dtype=int)
    _, member, counts = np.unique(classes, return_inverse=True, return_counts=True)
    order, starts, sizes = np.argsort(member, kind="stable"), (np.cumsum(counts) - counts)[member], counts[member]
    shares = []
    for _ in range(REDRAWS):
        kept = np.zeros(count, dtype=bool)
        kept[order[starts + random.integers(sizes)]] = True
        shares.append(balls.share(kept, neighbours))
    return _of_both_sides(recall, balls.count, float(np.std(shares)))


def _of_both_sides(share: float, count: int, deviation: float) -> list[float]:
    """[low, high] of a share of `count`, whose holders give it that `deviation`: distances add in squares."""
    (low, high), half = share_interval(share, count), NORMAL * deviation
    return [max(share - math.hypot(share - low, half), 0.0), min(share + math.hypot(high - share, half), 1.0)]


def mean_interval(values: np.ndarray, labels: np.ndarray | None = None) -> list[float]:
    """[low, high] of the mean of `values` (N,), each of one image and at least 0."""
    mean = float(values.mean())
    return _interval(mean, within_classes(values - mean, labels), floor=0.0)


def within_classes(influences: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """(N,) influences less their class's mean where classes are balanced, as they are where not.

    Resampling what is left is, to first order, resampling within the classes; the factor makes up for the class's
    mean being estimated from the same few images.
    """
    if labels is None or not _are_balanced(labels):
        return influences
    _, member, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(member, weights=influences) / counts
    return (influences - means[member]) * np.sqrt(counts / (counts - 1))[member]


def _are_balanced(labels: np.ndarray) -> bool:
    """Whether each class has as many images as the others, but for one, and enough to know the spread within it."""
    _, counts = np.unique(labels, return_counts=True)
    return bool(counts.min() >= LEAST_IN_CLASS and counts.max() - counts.min() <= 1)


def fid_influences(
    features: np.ndarray, images: FrechetStatistics, reference: FrechetStatistics, parts: Frechet
) -> np.ndarray:
    """(N,) of mean 0: the derivative of the distance in the weight of each of `features` (N, D).

    With x centred, d FID = 2 (m1 - m2)·x + x·x - x·T·x - mean, where T is the optimal transport map from the images'
    Gaussian to the reference's; in the coordinates y = R⁺x it is (Rᵀ S2 R)^½, whose axes and scales are in `parts`.
    """
    gap = images.mean - reference.mean
    whiten = parts.inverse.T @ parts.axes
    values = []
    for start in range(0, len(features), ROWS):
        centred = features[start : start + ROWS].astype(np.float64) - images.mean
        transported = np.square(centred @ whiten) @ parts.scales
        values.append(2 * centred @ gap + np.square(centred).sum(axis=1) - transported)
    influences = np.concatenate(values)
    return influences - influences.mean()


def _interval(score: float, influences: np.ndarray, floor: float) -> list[float]:
    """[low, high] around `score` from the means of influences drawn anew with replacement."""
    random = np.random.default_rng(SEED)
    count = len(influences)
    deviations = [influences[random.integers(count, size=count)].mean() for _ in range(DRAWS)]
    low, high = score + np.percentile(deviations, LEVELS)
    return [max(float(low), floor), float(high)]
