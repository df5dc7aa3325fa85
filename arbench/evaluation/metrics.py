"""`evaluate`: every asked-for score of a set of images against a reference, in one pass, with the protocol in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arbench.evaluation import intervals, scores
from arbench.evaluation.extractors import Extractor, load_extractor
from arbench.evaluation.features import BATCH_SIZE, Features, extract_features
from arbench.evaluation.protocol import describe_protocol, notes, questions
from arbench.evaluation.reference import Reference, open_reference
from arbench.evaluation.sources import open_images
from arbench.evaluation.statistics import FrechetStatistics, frechet
from arbench.evaluation.strata import SINGLE, allotted, describe_strata, strata_of
from arbench.registry import unknown_name

METRICS = ("fid", "is", "precision", "recall", "kid", "sfid", "label_accuracy")
DEFAULT_METRICS = ("fid", "is", "precision", "recall")
NEEDS_IMAGES = ("precision", "recall", "kid")  # of the reference: its statistics are not enough


def evaluate(
    images: Any,
    reference: Any,
    *,
    extractor: str | Extractor = "inception",
    metrics: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    num_images: int | None = None,
    batch_size: int = BATCH_SIZE,
    inception_weights: str | Path | None = None,
    crop: str = "adm",
    reconstructions: bool = False,
    cache: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    phase: Callable[[str, int], None] = lambda name, images: None,
) -> dict[str, Any]:
    """Scores of `images` against `reference`: a flat dict of numbers, and `metric_protocol`, what they mean.

    `images`: uint8 (N, H, W, 3) array, npz with `arr_0`, folder of pictures or run folder; with `num_images` the first
    so many, and an error where there are fewer. `reference`: see `open_reference`; a folder's pictures are brought to
    the images' size by `crop`. `extractor`: "inception" (weights from the file `inception_weights`, else downloaded),
    "digits-cnn", or an object with the members of `Extractor`. `metrics` out of `METRICS`; None is FID, IS, and where
    the reference has images precision and recall. `labels` (N,) are the classes asked for (found by themselves in a
    run folder), for `label_accuracy` and for KID of balanced classes. `reconstructions` says that these are
    reconstructions (rFID), not generated images. `cache` is a folder for features. `progress` is told how many images
    were just done, `phase` what is done next and to how many (0: to all at once).

    Keys: `fid`, `is_mean` `is_std`, `precision`, `recall`, `kid` `kid_std`, `sfid`, `label_accuracy`, `duplicates`
    (exact copies among the images). `metric_protocol["measured"]` holds what is of this set alone: 95 % intervals,
    content hash, notes. Raises ValueError for what cannot be scored so, OSError for what is not there.
    """
    source = open_images(images).first(num_images)
    against = open_reference(reference, size=next(iter(source.blocks())).shape[1:3], crop=crop)
    network = _network(extractor, inception_weights, device)
    chosen = _chosen(metrics, against)
    labels = source.labels if labels is None else np.asarray(labels)
    _check_possible(chosen, network, against, labels, source.count)

    folder, spatial = Path(cache) if cache else None, "sfid" in chosen
    phase("features", source.count)
    found = extract_features(source, network, spatial=spatial, batch_size=batch_size, cache=folder, progress=progress)
    real = None
    if against.images is not None and _reads_images(chosen, against):
        phase("features of the reference", against.images.count)
        real = extract_features(
            against.images,
            network,
            spatial=spatial and not against.spatial,
            batch_size=batch_size,
            keep=any(name in chosen for name in NEEDS_IMAGES),
            cache=folder,
            progress=progress,
        )
    pair = Compared.of(found, against, real, strata_of(labels, source.label_mode))
    values, spans = _scores(chosen, pair, labels, torch.device(device), phase)
    protocol = describe_protocol(found, source, against, real, network, batch_size)
    protocol["kid"] += f"; {describe_strata(pair.strata, pair.real_strata)}"
    protocol["warnings"] = questions(found, against, network, reconstructions)
    if "kid" in chosen and pair.strata is None and allotted(labels, source.label_mode):
        protocol["warnings"].append(SINGLE)
    protocol["measured"] = {
        "intervals": spans,
        "interval_method": intervals.METHOD,
        "images_sha256": found.sha256,
        "notes": notes(found, source, labels),
    }
    return {**values, "duplicates": found.duplicates, "metric_protocol": protocol}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The images' features beside what is known of the reference's."""

    found: Features
    real: np.ndarray | None  # (M, D) where the reference's images were read and a score needs more than statistics
    statistics: FrechetStatistics | None
    spatial: FrechetStatistics | None
    strata: np.ndarray | None  # (N,) the images' classes where their numbers were laid down
    real_strata: np.ndarray | None  # (M,) likewise the reference's

    @classmethod
    def of(cls, found: Features, reference: Reference, real: Features | None, strata: np.ndarray | None) -> Compared:
        """Stored statistics go before those of the reference's images, which may be a part of it only."""
        theirs = reference.images
        return cls(
            found=found,
            real=None if real is None else real.features,
            statistics=reference.statistics or (real.statistics if real else None),
            spatial=reference.spatial or (real.spatial if real else None),
            strata=strata,
            real_strata=None if theirs is None else strata_of(theirs.labels, theirs.label_mode),
        )


def _scores(
    chosen: tuple[str, ...],
    pair: Compared,
    labels: np.ndarray | None,
    device: torch.device,
    phase: Callable[[str, int], None],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The values of all chosen metrics, and the intervals of those that have one."""
    values: dict[str, float] = {}
    spans: dict[str, list[float]] = {}
    found, real = pair.found, pair.real
    if "fid" in chosen:
        phase("fid", 0)
        assert pair.statistics is not None
        parts = frechet(found.statistics, pair.statistics)
        values["fid"] = parts.distance
        spans["fid"] = intervals.fid_interval(found.features, found.statistics, pair.statistics, parts, labels)
    if "is" in chosen:
        phase("is", 0)
        splits = scores.inception_splits(found.logits)
        values |= {"is_mean": float(splits.scores.mean()), "is_std": float(splits.scores.std())}
        spans["is_mean"] = intervals.is_interval(splits, labels)
    if "precision" in chosen or "recall" in chosen:
        phase("precision, recall", 0)
        assert real is not None
        both = scores.precision_recall(found.features, real, device=_float64_device(device))
        values |= {name: value for name, value in both._asdict().items() if name in chosen}
    if "kid" in chosen:
        phase("kid", 0)
        assert real is not None
        distance = scores.kid(found.features, real, classes=pair.strata, reference_classes=pair.real_strata)
        values |= {"kid": distance.mean} | ({} if distance.std is None else {"kid_std": distance.std})
    if "sfid" in chosen:
        assert found.spatial is not None
        assert pair.spatial is not None
        values["sfid"] = found.spatial.distance(pair.spatial)
    if "label_accuracy" in chosen:
        assert labels is not None
        values["label_accuracy"] = scores.label_accuracy(found.logits, labels)
    return values, spans


def _network(extractor: str | Extractor, weights: str | Path | None, device: torch.device | str) -> Extractor:
    if not isinstance(extractor, str):
        return extractor
    if weights is not None and extractor != "inception":
        raise ValueError(f"weights of Inception were given, but the extractor is {extractor!r}")
    return load_extractor(extractor, weights=weights, device=device)


def _chosen(metrics: Sequence[str] | None, reference: Reference) -> tuple[str, ...]:
    """The metrics to compute, each known. ValueError for an unknown one and for none at all."""
    if metrics is None:
        return tuple(name for name in DEFAULT_METRICS if reference.images or name not in NEEDS_IMAGES)
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if not metrics:
        raise ValueError(f"no metrics asked for; expected some of {', '.join(METRICS)}")
    return tuple(metrics)


def _check_possible(
    chosen: tuple[str, ...], network: Extractor, reference: Reference, labels: np.ndarray | None, count: int
) -> None:
    """ValueError, before any work, where a chosen metric lacks what it needs."""
    lacking = [name for name in chosen if name in NEEDS_IMAGES and reference.images is None]
    if lacking:
        raise ValueError(f"{', '.join(lacking)}: the reference {reference.name} holds statistics only, no images")
    if "sfid" in chosen and not network.has_spatial:
        raise ValueError(f"sfid needs the extractor inception, not {network.name}")
    if "sfid" in chosen and reference.images is None and reference.spatial is None:
        raise ValueError(f"sfid: the reference {reference.name} holds neither mu_s and sigma_s nor images")
    if "label_accuracy" in chosen:
        if network.num_classes is None:
            raise ValueError(f"label_accuracy needs an extractor that names classes (digits-cnn), not {network.name}")
        if labels is None:
            raise ValueError("label_accuracy: no labels; give them, or a run folder, which holds them")
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} images")
    if reference.extractor not in (None, network.name):
        raise ValueError(f"the reference {reference.name} was made with {reference.extractor}, not {network.name}")
    if reference.statistics is not None and reference.statistics.width != network.width:
        width = reference.statistics.width
        raise ValueError(f"the reference {reference.name} is {width} wide; {network.name} has {network.width} features")


def _reads_images(chosen: tuple[str, ...], reference: Reference) -> bool:
    """Whether the reference's images have to go through the extractor."""
    if reference.statistics is None or any(name in chosen for name in NEEDS_IMAGES):
        return True
    return "sfid" in chosen and reference.spatial is None


def _float64_device(device: torch.device) -> torch.device:
    """Apple's GPUs have no float64; everything else computes where it is."""
    return torch.device("cpu") if device.type == "mps" else device
