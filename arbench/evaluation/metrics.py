"""`evaluate`: every asked-for score of a set of images against a reference, in one pass, with the protocol in full."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arbench.evaluation import intervals
from arbench.evaluation.compared import Compared
from arbench.evaluation.extractors import Network, as_network, is_standardised, load_extractor, names_of
from arbench.evaluation.features import BATCH_SIZE, CachedExtractor, FeatureCollector, Features, collect
from arbench.evaluation.plan import Task, make_plan
from arbench.evaluation.protocol import describe_protocol, notes, questions
from arbench.evaluation.reference import DIGITS, RealImages, Reference, open_reference
from arbench.evaluation.sources import Images, ImageSource, open_images
from arbench.evaluation.table import METRICS as METRICS
from arbench.evaluation.table import REFERENCE_IMAGES, SPATIAL
from arbench.protocols import Extractor
from arbench.validation import Count, check

Phase = Callable[[str, int], None]

_extracted: dict[Hashable, list[Features]] = {}  # of the digits that ship with the package, in this process


def evaluate(
    images: Images,
    reference: RealImages,
    *,
    extractor: str | Extractor | Sequence[str | Extractor] = "inception",
    metrics: Sequence[str] | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    device: torch.device | str = "cpu",
    num_images: int | None = None,
    batch_size: int = BATCH_SIZE,
    inception_weights: str | Path | None = None,
    crop: str = "adm",
    reconstructions: bool = False,
    cache: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    phase: Phase = lambda name, images: None,
) -> dict[str, Any]:
    """Scores of `images` against `reference`: a flat dict of numbers, and `metric_protocol`, what they mean.

    `images`: uint8 (N, H, W, 3) array, npz with `arr_0`, folder of pictures or run folder; with `num_images` the first
    so many, and an error where there are fewer. `reference`: see `open_reference`; a folder's pictures are brought to
    the images' size by `crop`. `extractor`: an installed name ("inception", whose weights are the file
    `inception_weights` or downloaded, "digits-cnn"), `module:Class`, an object with the members of `Extractor`, or
    several of these: one pass over the images feeds all. `metrics` out of `METRICS`, each computed by the extractors
    that can; None is FID, IS, and where the reference has images precision and recall. `labels` (N,) are the classes
    asked for (found by themselves in a run folder), for `label_accuracy` and for KID of balanced classes.
    `reconstructions` says that these are reconstructions (rFID), not generated images. `cache` is a folder for
    features. `progress` is told how many images were just done, `phase` what is done next and to how many (0: all).

    Keys: `fid`, `is_mean` `is_std`, `precision`, `recall`, `kid` `kid_std`, `sfid`, `label_accuracy`, `duplicates`
    (exact copies among the images). `metric_protocol["measured"]` holds what is of this set alone: 95 % intervals,
    content hash, notes. With several extractors these are the first one's, and `other_extractors` has `metrics` and
    `metric_protocol` of each other one by its name. Raises ValueError for what cannot be scored so, OSError for what is
    not there.
    """
    check("batch_size", batch_size, Count)
    check("num_images", num_images, int | None)
    source = open_images(images).first(num_images)
    against = open_reference(reference, size=next(iter(source.blocks())).shape[1:3], crop=crop)
    networks = load_networks(extractor, inception_weights, device)
    labels = source.labels if labels is None else class_numbers(labels)
    tasks = make_plan(metrics, networks, against, labels, source.count)
    folder = Path(cache) if cache else None
    found = _image_features(tasks, source, batch_size, folder, progress, phase)
    # Digits that ship with the package do not change, so their features are extracted once a process.
    shared = None
    if isinstance(reference, str) and reference in DIGITS and folder is None:
        shared = (reference, batch_size, str(device))
    real = _reference_features(tasks, against, batch_size, folder, progress, phase, shared)
    results = {}
    for task, ours, theirs in zip(tasks, found, real, strict=True):
        standardised, at = is_standardised(task.network), torch.device(device)
        pair = Compared.of(ours, against, theirs, labels, source.label_mode, standardised, at)
        results[task.network.name] = _result(task, pair, theirs, source, against, batch_size, reconstructions, phase)
    return _flat(results, networks[0].name, found[0].duplicates)


def class_numbers(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """`labels` as an array (N,). Raises ValueError for anything but whole numbers in one row."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"labels are {array.dtype} {array.shape}; expected whole numbers in one row")
    return array


def _result(
    task: Task,
    pair: Compared,
    real: Features | None,
    source: ImageSource,
    reference: Reference,
    batch_size: int,
    reconstructions: bool,
    phase: Phase,
) -> dict[str, Any]:
    """`metrics` and `metric_protocol` of one extractor; `real` as `describe_protocol` takes it."""
    values, spans = _scores(task, pair, phase)
    protocol = describe_protocol(pair, source, reference, real, task.network, batch_size)
    protocol["warnings"] = questions(pair, source, reference, task.network, reconstructions, values)
    protocol["measured"] = {  # what is of this set of images alone
        "intervals": spans,
        "interval_method": intervals.METHOD,
        "images_sha256": pair.found.sha256,
        "notes": notes(pair.found, source, pair.labels, reference, real),
    }
    return {"metrics": values, "metric_protocol": protocol}


def _flat(results: Mapping[str, dict[str, Any]], first: str, duplicates: int) -> dict[str, Any]:
    """The result of the extractor `first`, with those of the others inside."""
    flat = {**results[first]["metrics"], "duplicates": duplicates, "metric_protocol": results[first]["metric_protocol"]}
    others = {name: result for name, result in results.items() if name != first}
    return {**flat, "other_extractors": others} if others else flat


def load_networks(
    extractor: str | Extractor | Sequence[str | Extractor], weights: str | Path | None, device: torch.device | str
) -> list[Network]:
    """The extractors asked for, `weights` those of Inception. ValueError where they are for none of them."""
    names = names_of(extractor)
    if weights is not None and "inception" not in names and any(isinstance(name, str) for name in names):
        told = names[0] if len(names) == 1 else ", ".join(map(str, names))
        raise ValueError(f"weights of Inception were given, but the extractor is {told!r}")
    networks = [
        load_extractor(one, weights=weights if one == "inception" else None, device=device)
        if isinstance(one, str)
        else as_network(one)
        for one in names
    ]
    known = [network.name for network in networks]
    for name in known:
        if known.count(name) > 1:
            raise ValueError(f"two extractors are called {name!r}; expected each once")
    return networks


def _collector(
    network: Network, source: ImageSource, spatial: bool, keep: bool, batch_size: int, cache: Path | None
) -> FeatureCollector:
    extractor = CachedExtractor(network, spatial=spatial, folder=cache)
    return FeatureCollector(extractor, count=source.count, batch_size=batch_size, keep=keep)


def _image_features(
    tasks: Sequence[Task],
    source: ImageSource,
    batch_size: int,
    cache: Path | None,
    progress: Callable[[int], None] | None,
    phase: Phase,
) -> list[Features]:
    """What each task sees of the images; one pass for all."""
    phase("features", source.count)
    collectors = [_collector(t.network, source, t.needs(SPATIAL), True, batch_size, cache) for t in tasks]
    return collect(source, collectors, progress)


def _reference_features(
    tasks: Sequence[Task],
    reference: Reference,
    batch_size: int,
    cache: Path | None,
    progress: Callable[[int], None] | None,
    phase: Phase,
    shared: tuple[str, int, str] | None,
) -> list[Features | None]:
    """What each task sees of the reference's images, None where its statistics are enough; one pass for all.

    Those of one `shared` (None: not shared) and the same networks are those of the last time.
    """
    readers = [task for task in tasks if task.reads_images(reference)]
    if not readers:
        return [None] * len(tasks)
    images = reference.images
    assert images is not None
    phase("features of the reference", images.count)
    asked = [(t.network, t.needs(SPATIAL) and not reference.spatial, t.needs(REFERENCE_IMAGES)) for t in readers]
    key = (shared, *((network.name, network.sha256, spatial, keep) for network, spatial, keep in asked))
    found = _extracted.get(key)
    if found is None:
        found = collect(
            images,
            [_collector(network, images, spatial, keep, batch_size, cache) for network, spatial, keep in asked],
            progress,
        )
        if shared is not None and all(network.sha256 for network, _, _ in asked):
            _extracted[key] = found
    elif progress is not None:
        progress(images.count)
    each = iter(found)
    return [next(each) if task in readers else None for task in tasks]


def _scores(task: Task, pair: Compared, phase: Phase) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The values of all metrics of a task, and the intervals of those that have one."""
    values: dict[str, float] = {}
    spans: dict[str, list[float]] = {}
    for metric in task.metrics:
        phase(metric.name, 0)
        scored = metric.compute(pair)
        values.update(scored.values)
        spans.update(scored.intervals)
    return values, spans
