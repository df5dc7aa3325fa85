"""FrechetStatistics: float64, the same whatever the batches, and the closed form of two Gaussians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import arbench
from arbench.evaluation.statistics import FrechetStatistics


def draws(count: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)) @ random.normal(size=(width, width)) + random.normal(size=width)


def exact(mean: np.ndarray, covariance: np.ndarray) -> FrechetStatistics:
    return FrechetStatistics.from_moments(mean, covariance, 1000)


def test_equals_numpy_in_float64() -> None:
    features = draws(300, 7)
    statistics = FrechetStatistics.of(features)
    assert statistics.mean.dtype == statistics.covariance.dtype == np.float64
    # rounding of sums of 300 terms of size about 10
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-12, atol=1e-12)


def test_any_split_and_merge_give_the_same() -> None:
    features = draws(200, 5)
    whole, split, merged = FrechetStatistics.of(features), FrechetStatistics(), FrechetStatistics()
    for part in np.split(features, [1, 2, 50, 50, 163]):
        split.update(part)
        merged.merge(FrechetStatistics.of(part) if len(part) else FrechetStatistics())
    for other in (split, merged):
        assert other.count == 200
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(other.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_float32_features_are_summed_in_float64() -> None:
    # A float32 sum of squares around 1000 would lose the variance (1e-4) altogether.
    features = (1000 + 0.01 * draws(4000, 3)).astype(np.float32)
    statistics = FrechetStatistics()
    for part in np.array_split(features, 60):
        statistics.update(torch.from_numpy(part))
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-9, atol=1e-12)


def test_distance_of_gaussians_is_the_closed_form() -> None:
    random = np.random.default_rng(3)
    # Commuting covariances: the distance is |m1 - m2|² + sum (sqrt(a) - sqrt(b))².
    basis, _ = np.linalg.qr(random.normal(size=(40, 40)))
    a, b, gap = random.uniform(0.1, 9, 40), random.uniform(0.1, 9, 40), random.normal(size=40)
    first, second = exact(gap, basis @ np.diag(a) @ basis.T), exact(np.zeros(40), basis @ np.diag(b) @ basis.T)
    expected = gap @ gap + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert first.distance(second) == pytest.approx(expected, rel=1e-6)
    assert second.distance(first) == pytest.approx(first.distance(second), rel=1e-10)


def test_distance_of_general_covariances() -> None:
    # For 2×2 matrices tr (AB)^½ = sqrt(tr(AB) + 2 sqrt(det AB)).
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    assert exact(np.zeros(2), a).distance(exact(np.zeros(2), b)) == pytest.approx(expected, rel=1e-9)


def test_distance_of_fewer_images_than_features() -> None:
    few = FrechetStatistics.of(draws(10, 30))
    assert few.distance(few) == pytest.approx(0, abs=1e-8 * np.trace(few.covariance))
    assert few.distance(FrechetStatistics.of(draws(10, 30) + 1)) == pytest.approx(30, rel=1e-9)


def test_a_negative_or_complex_distance_is_never_0() -> None:
    sound, broken = FrechetStatistics.of(draws(50, 4)), FrechetStatistics.of(draws(50, 4))
    broken._scatter *= -1
    for first, second in ((sound, broken), (broken, broken)):
        with pytest.raises(ValueError, match=r"distance is (complex|-)"):
            first.distance(second)


def test_save_and_load(tmp_path: Path) -> None:
    statistics = FrechetStatistics.of(draws(50, 4))
    statistics.save(tmp_path / "s.npz")
    again = FrechetStatistics.load(tmp_path / "s.npz")
    assert again.count == 50
    assert np.array_equal(again.mean, statistics.mean)
    np.testing.assert_allclose(again.covariance, statistics.covariance, rtol=1e-15)
    assert [file.name for file in tmp_path.iterdir()] == ["s.npz"]


def test_mistakes_are_told(tmp_path: Path) -> None:
    statistics = FrechetStatistics.of(draws(5, 4))
    with pytest.raises(ValueError, match="NaN or infinity in 1 vectors"):
        statistics.update(np.array([[1, 2, 3, np.nan], [1, 2, 3, 4]]))
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        statistics.update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="4 wide and the reference's 3"):
        statistics.distance(FrechetStatistics.of(draws(5, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        _ = FrechetStatistics.of(draws(1, 4)).covariance
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match="not a readable npz"):
        FrechetStatistics.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3))
    with pytest.raises(ValueError, match="lacks sigma, count"):
        FrechetStatistics.load(tmp_path / "odd.npz")
    with pytest.raises(FileNotFoundError):
        FrechetStatistics.load(tmp_path / "absent.npz")


def test_public_name() -> None:
    assert arbench.FrechetStatistics is FrechetStatistics
