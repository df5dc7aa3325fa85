"""MIND: the sliced squared Wasserstein distance of two sets of features (2605.06797)."""

from __future__ import annotations

import numpy as np

DIRECTIONS = 1000
SEED = 0
AT_ONCE = 50  # directions whose projections are held at once


def mind(features: np.ndarray, reference: np.ndarray, directions: int = DIRECTIONS, seed: int = SEED) -> float:
    """The mean over random directions of W2² between the projections of (N, D) and (M, D)."""
    return float(_over_directions(features, reference, directions, seed).mean())


def _over_directions(features: np.ndarray, reference: np.ndarray, directions: int, seed: int) -> np.ndarray:
    """(directions,) of W2²."""
    drawn = np.random.default_rng(seed).standard_normal((directions, features.shape[1]))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    ours, theirs = features.astype(np.float64), reference.astype(np.float64)
    chunks = (drawn[start : start + AT_ONCE].T for start in range(0, directions, AT_ONCE))
    return np.concatenate([squared_wasserstein(ours @ chunk, theirs @ chunk) for chunk in chunks])


def squared_wasserstein(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, K) and (M, K), K pairs of sets of numbers, to (K,): the integral of the squared gap of their quantiles."""
    ends = np.union1d(np.arange(1, len(first) + 1) / len(first), np.arange(1, len(second) + 1) / len(second))
    shares = np.diff(ends, prepend=0.0)
    middles = ends - shares / 2  # between two ends both quantiles are constant
    one, other = (np.sort(side, axis=0)[_rank(middles, len(side))] for side in (first, second))
    return shares @ np.square(one - other)


def _rank(levels: np.ndarray, count: int) -> np.ndarray:
    return np.minimum((levels * count).astype(np.int64), count - 1)
