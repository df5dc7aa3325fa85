"""Mean and covariance of features in float64, one batch at a time, and the Fréchet distance between two of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack, solve_triangular

from arbench.evaluation.files import load_npz, save_npz
from arbench.evaluation.moments import check_moments, rounding_of, stored_count

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 1024  # vectors in float64 at once


class FrechetStatistics:
    """Running mean and covariance of feature vectors: float64, memory of one covariance matrix, mergeable.

    The update is Chan, Golub and LeVeque's (1979): each batch is centred on its own mean, so nothing cancels, and any
    split into batches gives the same statistics up to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = np.zeros(0)
        # Sum of outer products of the centred features; the upper triangle only, in Fortran order for dsyrk.
        self._scatter = np.zeros((0, 0), order="F")

    @property
    def width(self) -> int:
        """Features a vector; 0 before the first update."""
        return len(self._mean)

    @property
    def mean(self) -> np.ndarray:
        """(D,) float64. ValueError before the first update."""
        self._require(1)
        return self._mean.copy()

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, unbiased (divided by N - 1). ValueError with fewer than two vectors."""
        self._require(2)
        upper = np.triu(self._scatter) / (self.count - 1)
        return upper + np.triu(upper, 1).T

    @classmethod
    def of(cls, features: np.ndarray | Tensor) -> FrechetStatistics:
        """The statistics of all rows of `features` (N, D)."""
        statistics = cls()
        statistics.update(features)
        return statistics

    @classmethod
    def from_moments(cls, mean: np.ndarray, covariance: np.ndarray, count: int | np.ndarray) -> FrechetStatistics:
        """Statistics from a stored `mean` (D,) and unbiased `covariance` (D, D) of `count` vectors.

        Raises ValueError where they are no moments of real numbers (see `check_moments`) or `count` is below 2.
        """
        mean, covariance = check_moments(mean, covariance)
        count = stored_count(count)
        statistics = cls()
        statistics.count, statistics._mean = count, mean.copy()
        statistics._scatter = np.asfortranarray((covariance + covariance.T) * ((count - 1) / 2))
        return statistics

    def update(self, features: np.ndarray | Tensor) -> None:
        """Take in a batch: (B, D) array or tensor of finite numbers. ValueError for another shape or NaN."""
        batch = _as_array(features)
        if batch.ndim != 2 or (self.count and batch.shape[1] != self.width):
            raise ValueError(f"features {batch.shape}; expected (batch, {self.width or 'width'})")
        blocks = [batch[start : start + ROWS] for start in range(0, len(batch), ROWS)]
        broken = sum(int((~np.isfinite(block)).any(axis=1).sum()) for block in blocks)
        if broken:
            raise ValueError(f"features hold NaN or infinity in {broken} vectors")
        for block in blocks:
            rows = block.astype(np.float64)
            mean = rows.mean(axis=0)
            self._absorb(len(rows), mean, rows - mean)

    def merge(self, other: FrechetStatistics) -> None:
        """Take in the statistics of other vectors, as if they had been updated here. `other` stays as it is."""
        if not other.count:
            return
        if self.count and other.width != self.width:
            raise ValueError(f"cannot merge statistics of width {other.width} into width {self.width}")
        self._absorb(other.count, other._mean, np.zeros((0, other.width)))
        self._scatter += other._scatter

    def _absorb(self, count: int, mean: np.ndarray, centred: np.ndarray) -> None:
        """Add `count` vectors of the given mean whose centred rows are `centred`."""
        if not self.count:
            self._mean = np.zeros(len(mean))
            self._scatter = np.zeros((len(mean), len(mean)), order="F")
        total = self.count + count
        step = mean - self._mean
        between = step * np.sqrt(self.count * count / total)  # the two means' own share of the scatter, as one more row
        rows = np.concatenate([centred, between[None]])
        self._scatter = blas.dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, overwrite_c=1)
        self._mean += step * (count / total)
        self.count = total

    def distance(self, other: FrechetStatistics) -> float:
        """Squared Fréchet distance (FID) to `other`, 0 where it is below by rounding.

        Raises ValueError where widths differ, and where the distance comes out negative, complex or not finite.
        By eigenvalues of a symmetric matrix: no general matrix square root, no imaginary part.
        """
        _, product = _factors(self, other)
        return _distance(self, other, np.linalg.eigvalsh(product))

    def save(self, path: str | Path) -> None:
        """Write `mu sigma count` as npz, whole or not at all; pytorch-fid reads the first two."""
        save_npz(Path(path), {"mu": self.mean, "sigma": self.covariance, "count": np.int64(self.count)})

    @classmethod
    def load(cls, path: str | Path) -> FrechetStatistics:
        """Read what `save` wrote. OSError where there is no file, ValueError where it is not such a file."""
        arrays = load_npz(Path(path))
        missing = [name for name in ("mu", "sigma", "count") if name not in arrays]
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(missing)}; found {', '.join(arrays) or 'nothing'}")
        return cls.from_moments(arrays["mu"], arrays["sigma"], arrays["count"])

    def _require(self, count: int) -> None:
        if self.count < count:
            raise ValueError(f"statistics of {self.count} feature vectors; at least {count} are needed")


class Frechet(NamedTuple):
    """The distance of two Gaussians, and the parts that its derivative needs (see `intervals`).

    With R (D, r) such that R @ R.T = covariance of the first: `inverse` (r, D) is R⁺, and `axes` (r, r) and `scales`
    (r,) diagonalise (R.T @ other covariance @ R) ** 0.5.
    """

    distance: float
    inverse: np.ndarray
    axes: np.ndarray
    scales: np.ndarray


def frechet(first: FrechetStatistics, second: FrechetStatistics) -> Frechet:
    """`first.distance(second)` with its parts; about twice the time of the distance alone."""
    root, product = _factors(first, second)
    squares, axes = np.linalg.eigh(product)
    return Frechet(_distance(first, second, squares), _left_inverse(root), axes, np.sqrt(squares.clip(min=0)))


def _factors(first: FrechetStatistics, second: FrechetStatistics) -> tuple[np.ndarray, np.ndarray]:
    """R with R R^T = S1, and R^T S2 R, which is symmetric and has the eigenvalues of S1 S2."""
    if first.width != second.width:
        raise ValueError(f"features are {first.width} wide and the reference's {second.width}: another extractor")
    root = _square_root(first.covariance)
    return root, root.T @ second.covariance @ root


def _distance(first: FrechetStatistics, second: FrechetStatistics, squares: np.ndarray) -> float:
    """|m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (Heusel et al. 2017), `squares` the eigenvalues of S1 S2."""
    gap = first.mean - second.mean
    ours, theirs = first.covariance, second.covariance
    traces = np.trace(ours) + np.trace(theirs)
    distance = float(gap @ gap + traces - 2 * np.sqrt(squares.clip(min=0)).sum())
    # An eigenvalue off by `noise` moves its root by at most the root of that.
    noise = len(ours) * _rounding(np.abs(squares)) if len(squares) else 0.0
    slack = 2 * len(squares) * np.sqrt(noise) + len(ours) * np.finfo(np.float64).eps * abs(traces)
    least = squares.min(initial=0.0)
    if least < -rounding_of(ours) * np.linalg.norm(theirs) - rounding_of(theirs) * np.linalg.norm(ours):
        raise ValueError(f"the Fréchet distance is complex (an eigenvalue of {least:.3g}): these are no covariances")
    if not np.isfinite(distance) or distance < -slack:
        raise ValueError(
            f"the Fréchet distance is {distance:.6g}; expected 0 or more: these are no moments of features"
        )
    return max(distance, 0.0)


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """(D, r) with R R^T = covariance; directions without variance, up to rounding, are left out.

    Cholesky's factor where the rank is full, at a tenth of the price of the eigenvectors that find the others.
    """
    factor, failed = lapack.dpotrf(covariance, lower=1)
    if not failed and np.square(np.diag(factor)).min() > _rounding(covariance.diagonal()):
        return factor
    values, vectors = np.linalg.eigh(covariance)
    kept = values > _rounding(values)
    return vectors[:, kept] * np.sqrt(values[kept])


def _left_inverse(root: np.ndarray) -> np.ndarray:
    """R⁺ (r, D) of a root R (D, r) as `_square_root` gives it: triangular, or with orthogonal columns."""
    if root.shape[0] == root.shape[1] and not np.triu(root, 1).any():
        return solve_triangular(root, np.eye(len(root)), lower=True)
    return root.T / np.square(root).sum(axis=0)[:, None]


def _rounding(values: np.ndarray) -> float:
    """What cannot be told from 0 beside these variances: the rank rule of numpy's matrix_rank."""
    return float(values.max()) * len(values) * np.finfo(np.float64).eps


def _as_array(features: np.ndarray | Tensor) -> np.ndarray:
    if hasattr(features, "detach"):  # a torch tensor, on any device
        features = features.detach().cpu().numpy()
    return np.asarray(features)
