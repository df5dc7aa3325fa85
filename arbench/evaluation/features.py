"""From a stream of images to their features in one pass, for all scores at once; kept on disk where asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arbench.evaluation.extractors import Extracted, Network, as_network
from arbench.evaluation.files import load_npz, save_npz
from arbench.evaluation.sources import ImageDigest, ImageSource
from arbench.evaluation.statistics import FrechetStatistics
from arbench.protocols import Extractor

BATCH_SIZE = 64  # features vary in their last digits with the batch, so it is fixed and recorded


@dataclass(frozen=True, kw_only=True)
class Features:
    """What all scores are computed from.

    `features` (N, D) and `logits` (N, K) are float32, in image order, and of no rows where only statistics were asked
    for or, the logits, the extractor gives none; `statistics` those of `features`, `spatial` those of sFID's. `sha256`
    is the images' content, `contents` that of each different one, `duplicates` how many copy an earlier one.
    """

    count: int
    features: np.ndarray
    logits: np.ndarray
    statistics: FrechetStatistics
    spatial: FrechetStatistics | None
    image_size: tuple[int, int]
    sha256: str
    contents: frozenset[bytes]
    duplicates: int

    def __len__(self) -> int:
        return self.count


class CachedExtractor:
    """An extractor that looks a batch up in `folder` first, by its content and the weights, and keeps what it extracts.

    A killed evaluation so goes on where it was, and whoever extracts a batch first, be it another process while images
    are still drawn, does it for all. Without a folder it extracts and nothing else.
    """

    def __init__(self, extractor: Network, *, spatial: bool = False, folder: Path | None = None) -> None:
        if spatial and not extractor.has_spatial:
            raise ValueError(f"sfid needs the extractor inception; {extractor.name} has no spatial features")
        self.spatial = spatial
        self._extractor, self._folder = extractor, folder

    def extract(self, images: np.ndarray) -> Extracted:
        """uint8 (B, H, W, 3) to features. ValueError as the extractor raises it, and for a broken file in the cache."""
        found, keep = self.begin(images)
        keep()
        return found

    def begin(self, images: np.ndarray) -> tuple[Extracted, Callable[[], None]]:
        """As `extract`, and what is left to do, for whichever thread: to write the file."""
        if self._folder is None:
            return self._extractor.extract(images, self.spatial), lambda: None
        file = self._folder / f"{self._key(images)}.npz"
        if file.exists():
            arrays = load_npz(file)
            return Extracted(arrays["features"], arrays.get("logits"), arrays.get("spatial")), lambda: None
        found = self._extractor.extract(images, self.spatial)
        held = {name: array for name, array in found._asdict().items() if array is not None}
        return found, lambda: save_npz(file, held)

    def _key(self, images: np.ndarray) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(images).data)
        digest.update(repr((images.shape, self._extractor.name, self._extractor.sha256, self.spatial)).encode())
        return digest.hexdigest()


class _Rows:
    """Rows of float32 that come batch by batch, `count` in all, in one array that is never copied."""

    def __init__(self, count: int) -> None:
        self._count, self._filled = count, 0
        self._array = np.empty((0, 0), np.float32)

    def add(self, rows: np.ndarray) -> None:
        if not self._filled:
            self._array = np.empty((self._count, rows.shape[1]), np.float32)
        self._array[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    @property
    def filled(self) -> np.ndarray:
        return self._array[: self._filled]


class FeatureCollector:
    """Takes images as they come and extracts in batches of one fixed size, so that how they come changes nothing.

    Statistics are float64 and running, whatever the number of images. With `keep` features and logits of all `count`
    images are kept in float32 too (612 MB for 50,000 of Inception), since KID, precision, recall, the Inception Score
    and the intervals need them.
    """

    def __init__(
        self, extractor: CachedExtractor, *, count: int, batch_size: int = BATCH_SIZE, keep: bool = True
    ) -> None:
        self._extractor, self._count, self._batch_size, self._keep = extractor, count, batch_size, keep
        self._digest = ImageDigest()
        self._waiting: list[np.ndarray] = []
        self._features, self._logits = _Rows(count), _Rows(count)
        self._statistics = FrechetStatistics()
        self._spatial = FrechetStatistics() if extractor.spatial else None

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
        """Extract what still waits and hand over everything. ValueError where not `count` images came."""
        rest = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 0, 0, 3), np.uint8)
        if len(rest):
            self._extract(rest)
        self._waiting = []
        if self._digest.shape is None or self._digest.count != self._count:
            raise ValueError(f"{self._digest.count} images to extract features from; expected {self._count}")
        return Features(
            count=self._count,
            features=self._features.filled,
            logits=self._logits.filled,
            statistics=self._statistics,
            spatial=self._spatial,
            image_size=(self._digest.shape[0], self._digest.shape[1]),
            sha256=self._digest.sha256,
            contents=self._digest.contents,
            duplicates=self._digest.duplicates,
        )

    def _extract(self, batch: np.ndarray) -> None:
        extracted = self._extractor.extract(batch)
        self._statistics.update(extracted.features)
        if self._spatial is not None:
            if extracted.spatial is None:
                raise ValueError("the extractor gave no spatial features; expected metrics without sfid")
            self._spatial.update(extracted.spatial)
        if self._keep:
            self._features.add(extracted.features)
            if extracted.logits is not None:
                self._logits.add(extracted.logits)


def extract_features(
    source: ImageSource,
    extractor: Network | Extractor,
    *,
    spatial: bool = False,
    batch_size: int = BATCH_SIZE,
    keep: bool = True,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """The features of all images of `source`, in one pass over them; `progress` is told of images as they are done.

    `keep` False gives their statistics alone. With a folder `cache` every batch is looked up there first and written
    there for the next time (`CachedExtractor`).
    """
    cached = CachedExtractor(as_network(extractor), spatial=spatial, folder=cache)
    collector = FeatureCollector(cached, count=source.count, batch_size=batch_size, keep=keep)
    return collect(source, [collector], progress)[0]


def collect(
    source: ImageSource, collectors: Sequence[FeatureCollector], progress: Callable[[int], None] | None = None
) -> list[Features]:
    """What each of `collectors` makes of the images of `source`, read once for all of them."""
    for block in source.blocks():
        for start in range(0, len(block), BATCH_SIZE):
            images = block[start : start + BATCH_SIZE]
            for collector in collectors:
                collector.update(images)
            if progress:
                progress(len(images))
    return [collector.finish() for collector in collectors]
