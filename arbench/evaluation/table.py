"""Every metric once: what it needs, what computes it, how its numbers are written. A new one is one more entry.

Records, tables, plots and the command line read names and heads here, so nothing heavy is imported before a score is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from arbench.registry import lazy

if TYPE_CHECKING:
    from arbench.evaluation.compared import Compared

COMPUTED = "arbench.evaluation.computed"  # the module that is imported when a score is computed

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

    `usual`: computed where nobody asks for metrics by name and its needs are met. `fewest` images it can be of.
    """

    name: str
    heads: tuple[Head, ...]
    compute: Callable[[Compared], Scored]
    needs: frozenset[str] = field(default_factory=frozenset)
    also: tuple[str, ...] = ()
    usual: bool = False
    protocol: str = ""  # the entry of a protocol that is of this metric, and of none that names another
    fewest: int = 1

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names under which a record may hold what it gives."""
        return (*(head.name for head in self.heads), *self.also)


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="fid",
            heads=(Head(name="fid", title="FID", better="lower", decimals=2, range=DISTANCE),),
            compute=lazy(f"{COMPUTED}:fid"),
            usual=True,
            fewest=2,
        ),
        Metric(
            name="sfid",
            heads=(Head(name="sfid", title="sFID", better="lower", decimals=2, range=DISTANCE),),
            compute=lazy(f"{COMPUTED}:sfid"),
            needs=_needs(SPATIAL),
            fewest=2,
        ),
        Metric(
            name="is",
            heads=(Head(name="is_mean", title="IS", better="higher", decimals=2, range=(1.0, math.inf)),),
            also=("is_std",),
            compute=lazy(f"{COMPUTED}:inception_score"),
            needs=_needs(LOGITS),
            usual=True,
            protocol="is",
        ),
        Metric(
            name="precision",
            heads=(Head(name="precision", title="precision", better="higher", decimals=3, range=SHARE),),
            compute=lazy(f"{COMPUTED}:precision"),
            needs=_needs(REFERENCE_IMAGES),
            usual=True,
            protocol="precision_recall",
            fewest=4,
        ),
        Metric(
            name="recall",
            heads=(Head(name="recall", title="recall", better="higher", decimals=3, range=SHARE),),
            compute=lazy(f"{COMPUTED}:recall"),
            needs=_needs(REFERENCE_IMAGES),
            usual=True,
            protocol="precision_recall",
            fewest=4,
        ),
        Metric(
            name="kid",
            heads=(Head(name="kid", title="KID", better="lower", null=0.0),),
            also=("kid_std",),
            compute=lazy(f"{COMPUTED}:kid"),
            needs=_needs(REFERENCE_IMAGES),
            protocol="kid",
            fewest=2,
        ),
        Metric(
            name="density",
            heads=(Head(name="density", title="density", better="higher", decimals=3, range=DISTANCE),),
            compute=lazy(f"{COMPUTED}:density"),
            needs=_needs(REFERENCE_IMAGES),
            protocol="density_coverage",
        ),
        Metric(
            name="coverage",
            heads=(Head(name="coverage", title="coverage", better="higher", decimals=3, range=SHARE),),
            compute=lazy(f"{COMPUTED}:coverage"),
            needs=_needs(REFERENCE_IMAGES),
            protocol="density_coverage",
        ),
        Metric(
            name="cmmd",
            heads=(Head(name="cmmd", title="CMMD", better="lower", range=DISTANCE),),
            compute=lazy(f"{COMPUTED}:cmmd"),
            needs=_needs(REFERENCE_IMAGES),
            protocol="cmmd",
        ),
        Metric(
            name="mind",
            heads=(Head(name="mind", title="MIND", better="lower", range=DISTANCE),),
            compute=lazy(f"{COMPUTED}:mind"),
            needs=_needs(REFERENCE_IMAGES),
            protocol="mind",
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
            compute=lazy(f"{COMPUTED}:label_accuracy"),
            needs=_needs(LOGITS, CLASSES, LABELS),
        ),
    )
}


def heads() -> dict[str, Head]:
    """Every head by the name of its number, in the order of tables."""
    return {head.name: head for metric in METRICS.values() for head in metric.heads}


def protocol_entries() -> dict[str, str]:
    """The entry of a protocol that is of one number's metric alone, by the number's name; those that have one."""
    return {head.name: metric.protocol for metric in METRICS.values() if metric.protocol for head in metric.heads}


def numbers() -> tuple[str, ...]:
    """All names that the metrics of a record may have."""
    return tuple(name for metric in METRICS.values() for name in metric.numbers)
