"""From a stream of images to their features in one pass, for all scores at once; kept on disk where asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from arbench.evaluation.extractors import Extractor
from arbench.evaluation.files import load_npz, save_npz
from arbench.evaluation.sources import ImageDigest, ImageSource
from arbench.evaluation.statistics import FrechetStatistics

BATCH_SIZE = 64  # features vary in their last digits with the batch, so it is fixed and recorded


@dataclass(frozen=True, kw_only=True)
class Features:
    """What all scores are computed from.

    `features` (N, D) and `logits` (N, K) are float32, in image order; `statistics` those of `features`, `spatial`
    those of sFID's. `sha256` is the images' content, `duplicates` how many copy an earlier one.
    """

    features: np.ndarray
    logits: np.ndarray
    statistics: FrechetStatistics
    spatial: FrechetStatistics | None
    image_size: tuple[int, int]
    sha256: str
    duplicates: int

    def __len__(self) -> int:
        return len(self.features)


class FeatureCollector:
    """Takes images as they come and extracts in batches of one fixed size, so that how they come changes nothing.

    Statistics are float64 and running; features and logits of all images are kept in float32 (612 MB for 50,000
    images of Inception), since KID, precision, recall and the intervals need them.
    """

    def __init__(self, extractor: Extractor, *, spatial: bool = False, batch_size: int = BATCH_SIZE) -> None:
        if spatial and not extractor.has_spatial:
            raise ValueError(f"sfid needs the extractor inception; {extractor.name} has no spatial features")
        self._extractor, self._batch_size = extractor, batch_size
        self._digest = ImageDigest()
        self._waiting: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._statistics = FrechetStatistics()
        self._spatial = FrechetStatistics() if spatial else None

    def update(self, images: np.ndarray) -> None:
        """Take in uint8 (b, H, W, 3). ValueError for another size than before, and where a feature is not finite."""
        self._digest.update(images)
        self._waiting.append(images)
        if sum(map(len, self._waiting)) < self._batch_size:
            return
        waiting = np.concatenate(self._waiting)
        whole = len(waiting) - len(waiting) % self._batch_size
        for start in range(0, whole, self._batch_size):
            self._extract(waiting[start : start + self._batch_size])
        self._waiting = [waiting[whole:]]

    def finish(self) -> Features:
        """Extract what still waits and hand over everything. ValueError without images."""
        rest = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 0, 0, 3), np.uint8)
        if len(rest):
            self._extract(rest)
        self._waiting = []
        if self._digest.shape is None:
            raise ValueError("no images to extract features from")
        return Features(
            features=np.concatenate(self._features),
            logits=np.concatenate(self._logits),
            statistics=self._statistics,
            spatial=self._spatial,
            image_size=(self._digest.shape[0], self._digest.shape[1]),
            sha256=self._digest.sha256,
            duplicates=self._digest.duplicates,
        )

    def _extract(self, batch: np.ndarray) -> None:
        extracted = self._extractor.extract(batch, self._spatial is not None)
        self._features.append(extracted.features)
        self._logits.append(extracted.logits)
        self._statistics.update(extracted.features)
        if self._spatial is not None:
            self._spatial.update(extracted.spatial)


def extract_features(
    source: ImageSource,
    extractor: Extractor,
    *,
    spatial: bool = False,
    batch_size: int = BATCH_SIZE,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """The features of all images of `source`, in one pass over them; `progress` is told of images as they are done.

    With a folder `cache` they are looked up there first, by the content of the images and the extractor's weights
    (one more pass over the images, to hash them), and written there for the next time.
    """
    if cache is None:
        return _extract_all(source, extractor, spatial, batch_size, progress)
    digest = ImageDigest()
    for block in source.blocks():
        digest.update(block)
    file = cache / f"{_cache_key(digest, extractor, spatial, batch_size)}.npz"
    if file.exists():
        return replace(_read_cache(file, batch_size), sha256=digest.sha256, duplicates=digest.duplicates)
    features = _extract_all(source, extractor, spatial, batch_size, progress)
    _write_cache(file, features)
    return features


def _extract_all(
    source: ImageSource,
    extractor: Extractor,
    spatial: bool,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> Features:
    collector = FeatureCollector(extractor, spatial=spatial, batch_size=batch_size)
    for block in source.blocks():
        for start in range(0, len(block), batch_size):
            images = block[start : start + batch_size]
            collector.update(images)
            if progress:
                progress(len(images))
    return collector.finish()


def _cache_key(digest: ImageDigest, extractor: Extractor, spatial: bool, batch_size: int) -> str:
    parts = (digest.sha256, extractor.name, extractor.sha256, str(spatial), str(batch_size))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write_cache(file: Path, found: Features) -> None:
    arrays = {"features": found.features, "logits": found.logits, "image_size": np.array(found.image_size)}
    if found.spatial is not None:
        moments = {"mu_s": found.spatial.mean, "sigma_s": found.spatial.covariance, "count": found.spatial.count}
        arrays.update({name: np.asarray(value) for name, value in moments.items()})
    save_npz(file, arrays)


def _read_cache(file: Path, batch_size: int) -> Features:
    arrays = load_npz(file)
    spatial = None
    if "mu_s" in arrays:
        spatial = FrechetStatistics.from_moments(arrays["mu_s"], arrays["sigma_s"], int(arrays["count"]))
    statistics = FrechetStatistics()
    for start in range(0, len(arrays["features"]), batch_size):
        statistics.update(arrays["features"][start : start + batch_size])
    return Features(
        features=arrays["features"],
        logits=arrays["logits"],
        statistics=statistics,
        spatial=spatial,
        image_size=(int(arrays["image_size"][0]), int(arrays["image_size"][1])),
        sha256="",
        duplicates=0,
    )
