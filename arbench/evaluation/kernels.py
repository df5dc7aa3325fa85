"""Squared maximum mean discrepancies: KID's cubic kernel, CMMD's Gaussian one, and how sure such a number is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]

KID_DEGREE = 3
CMMD_SIGMA = 10.0  # Jayasumana et al. 2024 (2401.09603)
CMMD_SCALE = 1000.0
ROWS = 1024  # vectors whose kernel values are held at once
ANCHORS = 2000  # vectors of each side that stand for all in an interval
SEED = 0
NORMAL = 1.959964  # standard deviations to the ends of 95 %


def cubic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, D) and (m, D) to (n, m): (x·y / D + 1)³, KID's kernel (Bińkowski et al. 2018)."""
    return (first @ second.T / first.shape[1] + 1) ** KID_DEGREE


def gaussian(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, D) and (m, D) to (n, m): exp(-|x - y|² / 2σ²), CMMD's kernel."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.exp(-squares.clip(min=0) / (2 * CMMD_SIGMA**2))


def standardised(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets (N, D), (M, D) less the reference's mean, over its deviation; a constant feature counts nothing.

    The cubic kernel of features is of the sixth power of their size: only so is it of the size of Inception's.
    """
    centre, spread = reference.mean(axis=0, dtype=np.float64), reference.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    return (features - centre) * scale, (reference - centre) * scale


def cmmd(features: np.ndarray, reference: np.ndarray) -> float:
    """1,000 times the squared discrepancy of (N, D) and (M, D), pairs of a vector with itself among them, as published.

    CLIP's features are of length 1 by then.
    """
    ours, theirs = features.astype(np.float64), reference.astype(np.float64)
    within = _mean(gaussian, ours, ours) + _mean(gaussian, theirs, theirs)
    return CMMD_SCALE * (within - 2 * _mean(gaussian, ours, theirs))


def _mean(kernel: Kernel, first: np.ndarray, second: np.ndarray) -> float:
    total = sum(float(kernel(first[start : start + ROWS], second).sum()) for start in range(0, len(first), ROWS))
    return total / (len(first) * len(second))


def mmd_interval(
    score: float,
    features: np.ndarray,
    reference: np.ndarray,
    kernel: Kernel,
    within: Callable[[np.ndarray], np.ndarray] = lambda influences: influences,
) -> list[float]:
    """[low, high] around a squared discrepancy: 95 % of what drawing both sets anew gives.

    To first order both sets' images move it by their influences, the derivative in the weight of each; `within` takes
    from those of the images what balanced classes leave no room for. Where the sets do not differ these vanish, and the
    second order remains, of variance 2 (1/N + 1/M)² E k² for the centred kernel k (Gretton et al. 2012).
    """
    ours, theirs = features.astype(np.float64), reference.astype(np.float64)
    random = np.random.default_rng(SEED)
    some, others = (_some(side, random) for side in (ours, theirs))
    first = within(_influences(kernel, ours, some, others)).var() / len(ours)
    first += _influences(kernel, theirs, others, some).var() / len(theirs)
    centred = kernel(others, others)
    centred = centred - centred.mean(axis=0) - centred.mean(axis=1)[:, None] + centred.mean()
    np.fill_diagonal(centred, 0)
    squares = float(np.square(centred).sum()) / (len(others) * (len(others) - 1))
    half = NORMAL * math.sqrt(first + 2 * (1 / len(ours) + 1 / len(theirs)) ** 2 * squares)
    return [score - half, score + half]


def _some(vectors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return vectors if len(vectors) <= ANCHORS else vectors[random.choice(len(vectors), ANCHORS, replace=False)]


def _influences(kernel: Kernel, vectors: np.ndarray, same: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) of mean 0: the derivative of the discrepancy in the weight of each of `vectors` (N, D)."""
    blocks = (vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS))
    found = np.concatenate([2 * (kernel(b, same).mean(axis=1) - kernel(b, other).mean(axis=1)) for b in blocks])
    return found - found.mean()
