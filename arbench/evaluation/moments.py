"""Stored moments are checked before anything is measured against them: a broken reference must not score as perfect."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

LEAST_COUNT = 2  # one vector has no covariance
MOST_COUNT = 2**53  # past which a float64 no longer counts
# A covariance may have been summed in float32, by torch say; noise of n sums grows with the root of n.
ROUNDING = float(np.finfo(np.float32).eps)


def check_moments(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`mean` (D,) and `covariance` (D, D) as float64, unchanged where they are sound.

    Raises ValueError unless both are real, finite, of matching sizes and of a size that can be squared, and the
    covariance is symmetric and positive semi-definite within the rounding of float32.
    """
    mean, covariance = (_real(name, values) for name, values in (("mu", mean), ("sigma", covariance)))
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"mu {mean.shape} and sigma {covariance.shape} do not fit; expected (D,) and (D, D)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mu or sigma holds NaN or infinity")
    with np.errstate(over="ignore"):
        squares = float(mean @ mean), float(np.square(covariance).sum())
    if not np.isfinite(squares).all():
        largest = max(np.abs(mean).max(), np.abs(covariance).max())
        raise ValueError(f"mu or sigma holds {largest:.3g}, whose square is no float64; expected moments of features")
    slack = rounding_of(covariance)
    gap = float(np.abs(covariance - covariance.T).max())
    if gap > slack:
        raise ValueError(f"sigma is not symmetric: entries across the diagonal differ by {gap:.3g}")
    _check_definite(covariance, slack)
    return mean, covariance


def rounding_of(covariance: np.ndarray) -> float:
    """How far an entry or an eigenvalue of `covariance` (D, D) may be off, had it been summed in float32."""
    return float(np.sqrt(len(covariance)) * ROUNDING * np.abs(covariance).max())


def stored_count(count: np.ndarray | int) -> int:
    """A stored number of vectors. ValueError unless it is one whole number of at least 2."""
    value = np.asarray(count)
    is_number = value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all()
    if not is_number or value.item() != int(value.item()) or not LEAST_COUNT <= value.item() <= MOST_COUNT:
        told = f"{value.dtype} {value.shape}" if value.size != 1 else repr(value.item())
        raise ValueError(f"count is {told}; expected one whole number of at least {LEAST_COUNT}")
    return int(value.item())


def _check_definite(covariance: np.ndarray, slack: float) -> None:
    """By Cholesky's factor of `covariance` + `slack`, which exists where no eigenvalue is below -`slack`."""
    if not slack:  # all zero
        return
    shifted = covariance + slack * np.eye(len(covariance))
    if lapack.dpotrf(shifted, lower=1, overwrite_a=1)[1]:
        least = float(np.linalg.eigvalsh(covariance)[0])
        raise ValueError(f"sigma is no covariance: it has the negative eigenvalue {least:.3g}")


def _real(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} is {array.dtype}; expected real numbers")
    return array.astype(np.float64, copy=False)
