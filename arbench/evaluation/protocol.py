"""How a set of scores was made, and what in that should be questioned before it stands beside another."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any

import numpy as np

import arbench
from arbench.evaluation import scores
from arbench.evaluation.compared import Compared
from arbench.evaluation.extractors import Network
from arbench.evaluation.features import Features
from arbench.evaluation.intervals import is_in_small_splits
from arbench.evaluation.kernels import CMMD_SCALE, CMMD_SIGMA
from arbench.evaluation.reference import Reference
from arbench.evaluation.sliced import DIRECTIONS, SEED
from arbench.evaluation.sources import ImageSource
from arbench.evaluation.strata import SINGLE, allotted, describe_strata

SORTED_AGREEMENT = 0.5  # neighbours of one class: a shuffled set of ten classes has 0.1


def describe_protocol(
    pair: Compared,
    source: ImageSource,
    reference: Reference,
    real: Features | None,
    extractor: Network,
    batch_size: int,
) -> dict[str, Any]:
    """What two results must share to stand in one column; the same for any seed and any choice of scores.

    `pair` holds the features of the images of `source`, `real` those of the reference where its images were read.
    """
    subsets = f"{scores.KID_SUBSETS} subsets of at most {scores.KID_SUBSET_SIZE}, seed {scores.SHUFFLE_SEED}"
    found, strata = pair.found, describe_strata(pair.strata, pair.real_strata)
    strata += "; features standardised by the reference" if pair.standardise else ""
    return {
        "evaluator": "arbench",
        "evaluator_version": arbench.__version__,
        "torch_fidelity": version("torch-fidelity"),
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": extractor.resize,
        "dtype": "float32 features, float64 statistics",
        "batch_size": batch_size,
        "reference": reference.name,
        "reference_sha256": reference.sha256 or (real.sha256 if real else None),
        "reference_count": reference.count,
        "reference_images": reference.images.count if reference.images else None,  # for precision, recall and KID
        "reference_split": reference.split,
        "reference_crop": reference.crop,
        "num_images": len(found),
        "label_mode": source.label_mode,
        "fid_name": fid_name(len(found)),
        "image_size": list(found.image_size),
        "is": f"{min(scores.IS_SPLITS, len(found))} splits after a shuffle with seed {scores.SHUFFLE_SEED}",
        "kid": f"{subsets}; {strata}",
        "precision_recall": f"{scores.NEIGHBOURS} neighbours",
        "density_coverage": f"{scores.DENSITY_NEIGHBOURS} neighbours",
        "cmmd": f"Gaussian kernel of deviation {CMMD_SIGMA:g}, times {CMMD_SCALE:g}",
        "mind": f"{DIRECTIONS} directions, seed {SEED}",
    }


def fid_name(count: int) -> str:
    """A FID from N images is called FID-N: FID-50k, FID-500."""
    return f"FID-{count // 1000}k" if count % 1000 == 0 else f"FID-{count}"


def questions(
    pair: Compared,
    source: ImageSource,
    reference: Reference,
    extractor: Network,
    reconstructions: bool,
    values: Collection[str],
) -> list[str]:
    """What makes these scores, of the names `values`, incomparable with the literature's, one sentence each."""
    asked, found = [], pair.found
    if "kid" in values and pair.strata is None and allotted(pair.labels, source.label_mode):
        asked.append(SINGLE)
    if "is_mean" in values and is_in_small_splits(len(found)):
        splits = min(scores.IS_SPLITS, len(found))
        most = -(-len(found) // splits)
        asked.append(f"{len(found)} images in {splits} splits: the Inception Score is too low, {most} at the most")
    if reference.split == "val" and not reconstructions:
        asked.append(f"{reference.name} is of validation images; FID of generated images is against training images")
    if reference.split == "train" and reconstructions:
        asked.append(f"{reference.name} is of training images; FID of reconstructions is against validation images")
    if reference.extractor_sha256 not in (None, extractor.sha256):
        asked.append(f"{reference.name} was made with other weights of {extractor.name}")
    for what, count in (("", len(found)), (f"{reference.name}: ", reference.count)):
        if count is not None and count <= extractor.width:
            asked.append(f"{what}{count} images for {extractor.width} features: a singular covariance, FID too high")
    return asked


def notes(
    found: Features, source: ImageSource, labels: np.ndarray | None, reference: Reference, real: Features | None
) -> list[str]:
    """What a reader should know of this very set of images, and of how those of the reference were read."""
    told = [*source.notes, *source.conversions.notes]
    of_reference = [*reference.notes, *(reference.images.conversions.notes if reference.images else ())]
    told += [f"reference: {line}" for line in of_reference]
    if found.duplicates:
        told.append(f"{found.duplicates} of {len(found)} images are exact copies of another")
    copies = len(found.contents & real.contents) if real else 0
    if copies:
        told.append(f"{copies} of the reference's images are among these, pixel for pixel")
    if labels is None and found.logits.size:
        labels = found.logits.argmax(axis=1)
    if labels is not None and is_sorted_by_class(labels):
        told.append(f"the images are sorted by class; shuffled with seed {scores.SHUFFLE_SEED} for the Inception Score")
    return told


def is_sorted_by_class(classes: np.ndarray) -> bool:
    """Whether neighbours share their class far more often than they would in random order."""
    if len(classes) < 2:
        return False
    agreement = float((classes[1:] == classes[:-1]).mean())
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return agreement > SORTED_AGREEMENT and agreement > 2 * float(np.square(shares).sum())
