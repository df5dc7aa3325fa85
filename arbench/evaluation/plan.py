"""Which metrics each extractor computes, decided before any work; what cannot be is told in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arbench.evaluation.extractors import Network
from arbench.evaluation.reference import Reference
from arbench.evaluation.table import CLASSES, LABELS, LOGITS, METRICS, REFERENCE_IMAGES, SPATIAL, Metric
from arbench.registry import unknown_name

Labels = np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One extractor and the metrics that it computes, in the order of `METRICS`."""

    network: Network
    metrics: tuple[Metric, ...]

    def needs(self, what: str) -> bool:
        """Whether any of the metrics needs it."""
        return any(what in metric.needs for metric in self.metrics)

    def reads_images(self, reference: Reference) -> bool:
        """Whether the reference's images have to go through the extractor."""
        if reference.images is None:
            return False
        if reference.statistics is None or self.needs(REFERENCE_IMAGES):
            return True
        return self.needs(SPATIAL) and reference.spatial is None


def make_plan(
    metrics: Sequence[str] | None, networks: Sequence[Network], reference: Reference, labels: Labels, count: int
) -> list[Task]:
    """A task for each of `networks`: the metrics asked for that it can compute, or the usual ones where None are.

    Raises ValueError for an unknown metric and none at all, for one that no extractor can compute here, for an
    extractor that computes none, and where reference or labels do not fit.
    """
    asked = _known(metrics)
    if metrics is not None:
        _check_possible(asked, networks, reference, labels)
    tasks = [
        Task(network=network, metrics=tuple(m for m in asked if not _lacking(m, network, reference, labels)))
        for network in networks
    ]
    for task in tasks:
        if not task.metrics:
            lacking = _lacking(asked[0], task.network, reference, labels)
            raise ValueError(f"extractor {task.network.name} computes none of these: {asked[0].name}{lacking}")
        _check_fits(task.network, reference)
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} images")
    return tasks


def usual_metrics(reference: Reference) -> list[str]:
    """What is computed against `reference` where nobody asks for metrics by name."""
    usual = (metric for metric in METRICS.values() if metric.usual)
    return [metric.name for metric in usual if reference.images or REFERENCE_IMAGES not in metric.needs]


def _known(names: Sequence[str] | None) -> list[Metric]:
    if names is None:
        return [metric for metric in METRICS.values() if metric.usual]
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if not names:
        raise ValueError(f"no metrics asked for; expected some of {', '.join(METRICS)}")
    return [metric for name, metric in METRICS.items() if name in names]


def _check_possible(asked: Sequence[Metric], networks: Sequence[Network], reference: Reference, labels: Labels) -> None:
    """ValueError for the first need that none of `networks` meets, with every metric that has it."""
    for need, lacks in LACKS.items():
        lacking = [lacks(network, reference, labels) for network in networks]
        names = [metric.name for metric in asked if need in metric.needs]
        if names and all(lacking):
            raise ValueError(f"{', '.join(names)}{lacking[0]}")


def _lacking(metric: Metric, network: Network, reference: Reference, labels: Labels) -> str:
    """What `metric` lacks, as the end of a sentence; empty where it can be computed."""
    found = (LACKS[need](network, reference, labels) for need in LACKS if need in metric.needs)
    return next((text for text in found if text), "")


def _check_fits(network: Network, reference: Reference) -> None:
    """ValueError where the reference's statistics are of another network."""
    if reference.extractor not in (None, network.name):
        raise ValueError(f"the reference {reference.name} was made with {reference.extractor}, not {network.name}")
    if reference.statistics is not None and reference.statistics.width != network.width:
        width = reference.statistics.width
        raise ValueError(f"the reference {reference.name} is {width} wide; {network.name} has {network.width} features")


def _no_images(network: Network, reference: Reference, labels: Labels) -> str:
    return "" if reference.images else f": the reference {reference.name} holds statistics only, no images"


def _no_spatial(network: Network, reference: Reference, labels: Labels) -> str:
    if not network.has_spatial:
        return f" needs the extractor inception, not {network.name}"
    if reference.images is None and reference.spatial is None:
        return f": the reference {reference.name} holds neither mu_s and sigma_s nor images"
    return ""


def _no_logits(network: Network, reference: Reference, labels: Labels) -> str:
    has = getattr(network, "has_logits", True)  # a network that gives everything in one pass need not say so
    return "" if has else f" needs an extractor with logits, which {network.name} does not give"


def _no_classes(network: Network, reference: Reference, labels: Labels) -> str:
    if network.num_classes is not None:
        return ""
    return f" needs an extractor that names classes (digits-cnn), not {network.name}"


def _no_labels(network: Network, reference: Reference, labels: Labels) -> str:
    return ": no labels; give them, or a run folder, which holds them" if labels is None else ""


LACKS: dict[str, Callable[[Network, Reference, Labels], str]] = {
    REFERENCE_IMAGES: _no_images,
    SPATIAL: _no_spatial,
    LOGITS: _no_logits,
    CLASSES: _no_classes,
    LABELS: _no_labels,
}
