"""Every metric once: what it needs, how it is computed, how its numbers are written. A new one is one more entry.

Records, tables, plots and the command line read names and heads here, so nothing heavy is imported before a score is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from arbench.evaluation.compared import Compared

# What a metric may need beside the features of the images and their statistics.
REFERENCE_IMAGES = "images of the reference"  # its statistics are not enough
SPATIAL = "spatial features"
LOGITS = "logits"
CLASSES = "logits of the labels' classes"
LABELS = "labels"
# Between which a number always is.
DISTANCE, SHARE = (0.0, math.inf), (0.0, 1.0)


class Scored(NamedTuple):
    """Numbers by name, and the 95 % intervals of those that have one."""

    values: Mapping[str, float]
    intervals: Mapping[str, list[float]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Head:
    """How one number is written: its head in tables, which way is better, decimals (None: three digits)."""

    name: str
    title: str
    better: str  # "lower" or "higher"
    unit: str = ""
    decimals: int | None = None
    scale: float = 1.0  # shown = stored * scale
    range: tuple[float, float] = (-math.inf, math.inf)  # between which the stored number always is
    null: float | None = None  # what an unbiased estimate has where nothing differs; told where the interval holds it


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One entry: `compute` gives the numbers of `heads`, and perhaps those of `also`, which stand in records only.

    `usual`: computed where nobody asks for metrics by name and its needs are met.
    """

    name: str
    heads: tuple[Head, ...]
    compute: Callable[[Compared], Scored]
    needs: frozenset[str] = field(default_factory=frozenset)
    also: tuple[str, ...] = ()
    usual: bool = False

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names under which a record may hold what it gives."""
        return (*(head.name for head in self.heads), *self.also)


def fid(pair: Compared) -> Scored:
    """Fréchet distance of the statistics (Heusel et al. 2017)."""
    from arbench.evaluation.intervals import fid_interval
    from arbench.evaluation.statistics import frechet

    assert pair.statistics is not None
    parts = frechet(pair.found.statistics, pair.statistics)
    span = fid_interval(pair.found.features, pair.found.statistics, pair.statistics, parts, pair.labels)
    return Scored({"fid": parts.distance}, {"fid": span})


def inception_score(pair: Compared) -> Scored:
    """Mean and deviation over splits (Salimans et al. 2016)."""
    from arbench.evaluation.intervals import is_interval
    from arbench.evaluation.scores import inception_splits

    splits = inception_splits(pair.found.logits)
    values = {"is_mean": float(splits.scores.mean()), "is_std": float(splits.scores.std())}
    return Scored(values, {"is_mean": is_interval(splits, pair.labels)})


def precision(pair: Compared) -> Scored:
    """Share of the images within the reference's manifold (Kynkäänniemi et al. 2019)."""
    return _share("precision", pair.precision_recall.precision, len(pair.found))


def recall(pair: Compared) -> Scored:
    """Share of the reference within the images' manifold."""
    assert pair.real is not None
    return _share("recall", pair.precision_recall.recall, len(pair.real))


def density(pair: Compared) -> Scored:
    """How many balls of the reference an image lies in, over k (Naeem et al. 2020)."""
    from arbench.evaluation.intervals import mean_interval

    found = pair.density_coverage.density
    return Scored({"density": float(found.mean())}, {"density": mean_interval(found, pair.labels)})


def coverage(pair: Compared) -> Scored:
    """Share of the reference whose ball holds an image."""
    assert pair.real is not None
    return _share("coverage", pair.density_coverage.coverage, len(pair.real))


def kid(pair: Compared) -> Scored:
    """Kernel distance (Bińkowski et al. 2018), by class where `strata` says so."""
    from arbench.evaluation.intervals import within_classes
    from arbench.evaluation.kernels import cubic, mmd_interval
    from arbench.evaluation.scores import kid

    ours, theirs = pair.for_kernels
    found = kid(ours, theirs, classes=pair.strata, reference_classes=pair.real_strata)
    span = mmd_interval(found.mean, ours, theirs, cubic, lambda influences: within_classes(influences, pair.strata))
    return Scored({"kid": found.mean} | ({} if found.std is None else {"kid_std": found.std}), {"kid": span})


def cmmd(pair: Compared) -> Scored:
    """CLIP's maximum mean discrepancy (Jayasumana et al. 2024), of whatever features it is given."""
    from arbench.evaluation.intervals import within_classes
    from arbench.evaluation.kernels import CMMD_SCALE, cmmd, gaussian, mmd_interval

    assert pair.real is not None
    ours, theirs = pair.found.features, pair.real
    found = cmmd(ours, theirs)
    of_classes = lambda influences: within_classes(influences, pair.labels)  # noqa: E731
    low, high = mmd_interval(found / CMMD_SCALE, ours, theirs, gaussian, of_classes)
    return Scored({"cmmd": found}, {"cmmd": [CMMD_SCALE * max(low, 0.0), CMMD_SCALE * high]})


def mind(pair: Compared) -> Scored:
    """Sliced squared Wasserstein distance (2605.06797)."""
    from arbench.evaluation.sliced import mind

    assert pair.real is not None
    return Scored({"mind": mind(pair.found.features, pair.real)})


def sfid(pair: Compared) -> Scored:
    """FID of spatial features (Nash et al. 2021)."""
    assert pair.found.spatial is not None
    assert pair.spatial is not None
    return Scored({"sfid": pair.found.spatial.distance(pair.spatial)})


def label_accuracy(pair: Compared) -> Scored:
    """How often the extractor reads the class that was asked for."""
    from arbench.evaluation.scores import label_accuracy

    assert pair.labels is not None
    return _share("label_accuracy", label_accuracy(pair.found.logits, pair.labels), len(pair.labels))


def _share(name: str, share: float, count: int) -> Scored:
    from arbench.evaluation.intervals import share_interval

    return Scored({name: share}, {name: share_interval(share, count)})


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="fid",
            heads=(Head(name="fid", title="FID", better="lower", decimals=2, range=DISTANCE),),
            compute=fid,
            usual=True,
        ),
        Metric(
            name="sfid",
            heads=(Head(name="sfid", title="sFID", better="lower", decimals=2, range=DISTANCE),),
            compute=sfid,
            needs=_needs(SPATIAL),
        ),
        Metric(
            name="is",
            heads=(Head(name="is_mean", title="IS", better="higher", decimals=2, range=(1.0, math.inf)),),
            also=("is_std",),
            compute=inception_score,
            needs=_needs(LOGITS),
            usual=True,
        ),
        Metric(
            name="precision",
            heads=(Head(name="precision", title="precision", better="higher", decimals=3, range=SHARE),),
            compute=precision,
            needs=_needs(REFERENCE_IMAGES),
            usual=True,
        ),
        Metric(
            name="recall",
            heads=(Head(name="recall", title="recall", better="higher", decimals=3, range=SHARE),),
            compute=recall,
            needs=_needs(REFERENCE_IMAGES),
            usual=True,
        ),
        Metric(
            name="kid",
            heads=(Head(name="kid", title="KID", better="lower", null=0.0),),
            also=("kid_std",),
            compute=kid,
            needs=_needs(REFERENCE_IMAGES),
        ),
        Metric(
            name="density",
            heads=(Head(name="density", title="density", better="higher", decimals=3, range=DISTANCE),),
            compute=density,
            needs=_needs(REFERENCE_IMAGES),
        ),
        Metric(
            name="coverage",
            heads=(Head(name="coverage", title="coverage", better="higher", decimals=3, range=SHARE),),
            compute=coverage,
            needs=_needs(REFERENCE_IMAGES),
        ),
        Metric(
            name="cmmd",
            heads=(Head(name="cmmd", title="CMMD", better="lower", range=DISTANCE),),
            compute=cmmd,
            needs=_needs(REFERENCE_IMAGES),
        ),
        Metric(
            name="mind",
            heads=(Head(name="mind", title="MIND", better="lower", range=DISTANCE),),
            compute=mind,
            needs=_needs(REFERENCE_IMAGES),
        ),
        Metric(
            name="label_accuracy",
            heads=(
                Head(
                    name="label_accuracy",
                    title="label accuracy",
                    better="higher",
                    unit="%",
                    decimals=1,
                    scale=100.0,
                    range=SHARE,
                ),
            ),
            compute=label_accuracy,
            needs=_needs(LOGITS, CLASSES, LABELS),
        ),
    )
}


def heads() -> dict[str, Head]:
    """Every head by the name of its number, in the order of tables."""
    return {head.name: head for metric in METRICS.values() for head in metric.heads}


def numbers() -> tuple[str, ...]:
    """All names that the metrics of a record may have."""
    return tuple(name for metric in METRICS.values() for name in metric.numbers)
