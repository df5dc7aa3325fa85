"""What real images score: the floor that no generator of these images gets below but by chance."""

from __future__ import annotations

import functools

import numpy as np

from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.features import extract_features
from arbench.evaluation.reference import open_reference
from arbench.evaluation.statistics import FrechetStatistics

DRAWS = 200
LEVELS = (2.5, 97.5)  # per cent
SEED = 0


def digits_floor(num_images: int, draws: int = DRAWS) -> tuple[float, float] | None:
    """Between which FIDs lie 95 of 100 draws of `num_images` training digits against the held-out ones.

    Drawn without repetition, each class as often as the next; None where a class has too few for that.
    """
    features, labels, real = _real_digits()
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = [len(share) for share in np.array_split(np.arange(num_images), len(of_class))]
    if num_images < 2 or any(count > len(ids) for count, ids in zip(wanted, of_class, strict=True)):
        return None
    random = np.random.default_rng(SEED)
    found = []
    for _ in range(draws):
        chosen = [random.choice(ids, count, replace=False) for ids, count in zip(of_class, wanted, strict=True)]
        drawn = FrechetStatistics()
        drawn.update(features[np.concatenate(chosen)])
        found.append(drawn.distance(real))
    low, high = np.percentile(found, LEVELS)
    return float(low), float(high)


@functools.cache
def _real_digits() -> tuple[np.ndarray, np.ndarray, FrechetStatistics]:
    """Features (N, D) and labels (N,) of the training digits, statistics of the held-out ones."""
    train, heldout = open_reference("digits-train").images, open_reference("digits-heldout").images
    assert train is not None
    assert train.labels is not None
    assert heldout is not None
    network = load_extractor("digits-cnn")
    found = extract_features(train, network)
    return found.features, train.labels, extract_features(heldout, network, keep=False).statistics
