"""FID of sets of images that were asked for alike, and how much it differs between two of them.

Two ways of drawing the same image (class, number and seed alike) make images that resemble each other: their FIDs rise
and fall together as images are drawn anew, and the difference is known far better than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from arbench.evaluation.compared import Compared
from arbench.evaluation.extractors import is_standardised
from arbench.evaluation.features import Features, extract_features
from arbench.evaluation.intervals import difference_interval, fid_influences, score_interval, within_classes
from arbench.evaluation.metrics import load_networks
from arbench.evaluation.plan import make_plan
from arbench.evaluation.reference import RealImages, Reference, open_reference
from arbench.evaluation.sources import Images, open_images
from arbench.evaluation.statistics import frechet
from arbench.protocols import Extractor


@dataclass(frozen=True, kw_only=True)
class FidScore:
    """A FID, and how each of the images moves it: (N,) influences, less their class's mean where classes balance."""

    value: float
    influences: np.ndarray

    @property
    def interval(self) -> list[float]:
        """[low, high] at 95 %, that of `arbench.evaluate`."""
        return score_interval(self.value, self.influences)

    def minus(self, other: FidScore) -> tuple[float, list[float]]:
        """How much larger this FID is than that of `other`, image by image the same asked for; and [low, high]."""
        assert len(self.influences) == len(other.influences)
        return self.value - other.value, difference_interval(
            self.value - other.value, self.influences, other.influences
        )


class FidScorer:
    """FID against one reference by one extractor, both loaded once; the numbers are those of `arbench.evaluate`."""

    def __init__(
        self,
        reference: RealImages,
        extractor: str | Extractor | Sequence[str | Extractor] = "inception",
        *,
        inception_weights: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Of several extractors the first counts. Raises ValueError and OSError as `arbench.evaluate` does."""
        self._asked, self._device = reference, torch.device(device)
        self._network = load_networks(extractor, inception_weights, device)[0]
        self._reference: Reference | None = None
        self._real: Features | None = None

    def score(self, images: Images) -> FidScore:
        """The FID of `images`, all of one size. Raises ValueError and OSError as `arbench.evaluate` does."""
        source = open_images(images)
        if self._reference is None:
            self._reference = open_reference(self._asked, size=next(iter(source.blocks())).shape[1:3])
        reference = self._reference
        (task,) = make_plan(["fid"], [self._network], reference, source.labels, source.count)
        if self._real is None and task.reads_images(reference):
            assert reference.images is not None
            self._real = extract_features(reference.images, self._network, keep=False)
        pair = Compared.of(
            extract_features(source, self._network),
            reference,
            self._real,
            source.labels,
            source.label_mode,
            is_standardised(self._network),
            self._device,
        )
        assert pair.statistics is not None
        parts = frechet(pair.found.statistics, pair.statistics)
        influences = fid_influences(pair.found.features, pair.found.statistics, pair.statistics, parts)
        return FidScore(value=parts.distance, influences=within_classes(influences, pair.labels))
