"""What every metric is computed from: the images' features beside what is known of the reference's."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from arbench.evaluation.features import Features
from arbench.evaluation.kernels import standardised
from arbench.evaluation.reference import Reference
from arbench.evaluation.scores import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from arbench.evaluation.statistics import FrechetStatistics
from arbench.evaluation.strata import strata_of


@dataclass(frozen=True)
class Compared:
    """The images as one extractor sees them, and the reference; everything in image order.

    `found` are the images' features, logits and statistics; `real` (M, D) the reference's features, None where its
    images were not read; `statistics` and `spatial` the reference's; `labels` (N,) the classes asked for where they are
    known; `strata` and `real_strata` both sides' classes where their numbers were laid down.
    """

    found: Features
    real: np.ndarray | None
    statistics: FrechetStatistics | None
    spatial: FrechetStatistics | None
    labels: np.ndarray | None
    strata: np.ndarray | None
    real_strata: np.ndarray | None
    standardise: bool  # before kernels
    device: torch.device

    @classmethod
    def of(
        cls,
        found: Features,
        reference: Reference,
        real: Features | None,
        labels: np.ndarray | None,
        label_mode: str | None,
        standardise: bool,
        device: torch.device,
    ) -> Compared:
        """Stored statistics go before those of the reference's images, which may be a part of it only."""
        theirs = reference.images
        return cls(
            found=found,
            real=None if real is None else real.features,
            statistics=reference.statistics or (real.statistics if real else None),
            spatial=reference.spatial or (real.spatial if real else None),
            labels=labels,
            strata=strata_of(labels, label_mode),
            real_strata=None if theirs is None else strata_of(theirs.labels, theirs.label_mode),
            standardise=standardise,
            device=device,
        )

    @functools.cached_property
    def for_kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """The images' features and the reference's as kernels take them."""
        assert self.real is not None
        return standardised(self.found.features, self.real) if self.standardise else (self.found.features, self.real)

    @functools.cached_property
    def precision_recall(self) -> PrecisionRecall:
        """Both from one pass over the distances; Apple's GPUs have no float64, all else computes where it is."""
        assert self.real is not None
        return precision_recall(self.found.features, self.real, device=self._exact_device)

    @functools.cached_property
    def density_coverage(self) -> DensityCoverage:
        """Both from one pass, as precision and recall."""
        assert self.real is not None
        return density_coverage(self.found.features, self.real, device=self._exact_device)

    @property
    def _exact_device(self) -> torch.device:
        return torch.device("cpu") if self.device.type == "mps" else self.device
