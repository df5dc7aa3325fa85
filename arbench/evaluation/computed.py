"""What the metrics of `table.py` compute: the numbers of a pair of image sets, and their 95 % intervals."""

from __future__ import annotations

from arbench.evaluation import scores, sliced
from arbench.evaluation.compared import Compared
from arbench.evaluation.intervals import (
    fid_interval,
    held_interval,
    is_in_small_splits,
    is_interval,
    mean_interval,
    recall_interval,
    share_interval,
    within_classes,
)
from arbench.evaluation.kernels import CMMD_SCALE, cubic, gaussian, mmd_interval
from arbench.evaluation.kernels import cmmd as kernel_distance
from arbench.evaluation.statistics import frechet
from arbench.evaluation.table import Scored

ALIKE = 1e-4  # of a score: an interval that is no wider is rounding


def fid(pair: Compared) -> Scored:
    """Fréchet distance of the statistics (Heusel et al. 2017)."""
    assert pair.statistics is not None
    parts = frechet(pair.found.statistics, pair.statistics)
    span = fid_interval(pair.found.features, pair.found.statistics, pair.statistics, parts, pair.labels)
    return Scored({"fid": parts.distance}, _known(fid=span))


def inception_score(pair: Compared) -> Scored:
    """Mean and deviation over splits (Salimans et al. 2016)."""
    splits = scores.inception_splits(pair.found.logits)
    values = {"is_mean": float(splits.scores.mean()), "is_std": float(splits.scores.std())}
    if is_in_small_splits(len(pair.found)):
        return Scored(values)
    return Scored(values, _known(is_mean=is_interval(splits, pair.labels)))


def precision(pair: Compared) -> Scored:
    """Share of the images within the reference's manifold (Kynkäänniemi et al. 2019)."""
    return _share("precision", pair.precision_recall.precision, len(pair.found))


def recall(pair: Compared) -> Scored:
    """Share of the reference within the images' manifold."""
    found = pair.precision_recall
    span = recall_interval(found.recall, found.balls, scores.NEIGHBOURS, pair.labels)
    return Scored({"recall": found.recall}, {"recall": span})


def density(pair: Compared) -> Scored:
    """How many balls of the reference an image lies in, over k (Naeem et al. 2020)."""
    found = pair.density_coverage.density
    return Scored({"density": float(found.mean())}, _known(density=mean_interval(found, pair.labels)))


def coverage(pair: Compared) -> Scored:
    """Share of the reference whose ball holds an image."""
    assert pair.real is not None
    found = pair.density_coverage
    span = held_interval(found.coverage, len(pair.real), found.alone, pair.labels)
    return Scored({"coverage": found.coverage}, {"coverage": span})


def kid(pair: Compared) -> Scored:
    """Kernel distance (Bińkowski et al. 2018), by class where `strata` says so."""
    ours, theirs = pair.for_kernels
    found = scores.kid(ours, theirs, classes=pair.strata, reference_classes=pair.real_strata)
    span = mmd_interval(found.mean, ours, theirs, cubic, lambda influences: within_classes(influences, pair.strata))
    return Scored({"kid": found.mean} | ({} if found.std is None else {"kid_std": found.std}), {"kid": span})


def cmmd(pair: Compared) -> Scored:
    """CLIP's maximum mean discrepancy (Jayasumana et al. 2024), of whatever features it is given."""
    assert pair.real is not None
    ours, theirs = pair.found.features, pair.real
    found = kernel_distance(ours, theirs)
    of_classes = lambda influences: within_classes(influences, pair.labels)  # noqa: E731
    low, high = mmd_interval(found / CMMD_SCALE, ours, theirs, gaussian, of_classes)
    return Scored({"cmmd": found}, {"cmmd": [CMMD_SCALE * max(low, 0.0), CMMD_SCALE * high]})


def mind(pair: Compared) -> Scored:
    """Sliced squared Wasserstein distance (2605.06797)."""
    assert pair.real is not None
    return Scored({"mind": sliced.mind(pair.found.features, pair.real)})


def sfid(pair: Compared) -> Scored:
    """FID of spatial features (Nash et al. 2021)."""
    assert pair.found.spatial is not None
    assert pair.spatial is not None
    return Scored({"sfid": pair.found.spatial.distance(pair.spatial)})


def label_accuracy(pair: Compared) -> Scored:
    """How often the extractor reads the class that was asked for."""
    assert pair.labels is not None
    return _share("label_accuracy", scores.label_accuracy(pair.found.logits, pair.labels), len(pair.labels))


def _known(**spans: list[float]) -> dict[str, list[float]]:
    """Those intervals that tell something: images that are all alike to a score say nothing of others."""
    return {name: [low, high] for name, (low, high) in spans.items() if high - low > ALIKE * high}


def _share(name: str, share: float, count: int) -> Scored:
    return Scored({name: share}, {name: share_interval(share, count)})
