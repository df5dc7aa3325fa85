"""From a run folder full of images to its record: scores, and speed from the logged batches."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np

from arbench.evaluation.extractors import names_of
from arbench.evaluation.features import BATCH_SIZE, CachedExtractor
from arbench.evaluation.metrics import evaluate, load_networks
from arbench.machine.hardware import describe_hardware, versions
from arbench.machine.precision import dtype_name
from arbench.machine.progress import image_progress
from arbench.registry import EXTRACTORS, GENERATORS, TOKENIZERS
from arbench.report.record import PHASES, Record, load_record, new_record
from arbench.runs.folder import RunFolder
from arbench.runs.models import Parts
from arbench.runs.pipeline import Observe, observe_nothing
from arbench.runs.request import PreparedRun
from arbench.runs.roofline import roofline
from arbench.runs.tiers import find_tier
from arbench.sampling.engine import engine_name

EXCLUDED = "loading, a warm-up draw, padding of batches that are not full, writing images, evaluation"
OVERLAPS = (
    "decoding, and features that are extracted on the fly, run in streams beside the drawing of the next batch: "
    "seconds_per_image is on the clock, features among it; phases are spans of their streams and add up to more"
)
PROTOCOL, OTHERS = "metric_protocol", "other_extractors"
SHARDS_SHA256 = "shards_sha256"  # of the images that a record is of
FEATURES = "features"  # of shards that are drawn already; in the run folder until its record is written


def is_scored(folder: RunFolder) -> bool:
    """Whether the record that is there is of these very images, and of the evaluation settings asked for now."""
    finished = list(folder.events("finished"))
    if not finished or finished[-1]["evaluation"] != folder.settings["evaluation"]:
        return False
    return load_record(folder.path)["source"].get(SHARDS_SHA256) == folder.shards.sha256()


def feature_observer(job: PreparedRun, folder: RunFolder) -> Observe:
    """What looks at every finished shard while sampling: the extractor where asked for, whose features `score` finds.

    Every process extracts its own shards so, and the first one has only statistics left to merge.
    """
    settings = folder.settings["evaluation"]
    if settings is None or not job.request.on_the_fly:
        return observe_nothing
    networks = load_networks(settings["extractor"], settings["inception_weights"], job.parts.device)
    asked = "sfid" in (settings["metrics"] or ())
    cached = [
        CachedExtractor(network, spatial=asked and network.has_spatial, folder=folder.path / FEATURES)
        for network in networks
    ]

    def observe(images: np.ndarray) -> Callable[[], None]:
        batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        with folder.timed("features", images=len(images)):
            writes = [extractor.begin(batch)[1] for batch in batches for extractor in cached]

        def write() -> None:
            for one in writes:
                one()

        return write

    return observe


def score(job: PreparedRun, folder: RunFolder) -> dict[str, Any]:
    """What `arbench.evaluate` says about the run's images, empty where nothing is to be scored."""
    settings = folder.settings["evaluation"]
    if settings is None:
        return {}
    folder.log("evaluating", **settings)
    with image_progress("scoring", job.request.num_images, 0) as progress, folder.timed("evaluated"):
        return evaluate(
            folder.path,
            settings["reference"],
            extractor=settings["extractor"],
            metrics=settings["metrics"],
            inception_weights=settings["inception_weights"],
            labels=job.labels,
            device=job.parts.device,
            num_images=job.request.num_images,
            cache=folder.path / FEATURES if job.request.on_the_fly else None,
            progress=progress,
            phase=progress.phase,
        )


def make_record(job: PreparedRun, folder: RunFolder, scores: dict[str, Any]) -> Record:
    """The checked record of a finished run."""
    parts, images = job.parts, job.settings["images"]
    return new_record(
        method=parts.generator.method,
        model=parts.model,
        params_m=round(parts.params_m, 3),
        tokenizer=parts.tokenizer_name,
        weights=parts.weights,
        sampling=images["sampling"],
        seed=images["seed"],
        num_images=images["num_images"],
        labels=images["labels"],
        metrics={name: value for name, value in scores.items() if name not in (PROTOCOL, OTHERS)},
        metric_protocol=scores.get(PROTOCOL, {}),
        other_extractors=scores.get(OTHERS, {}),
        speed={
            **speed(folder),
            "steps": job.steps,
            "flops_per_image": flops_per_image(parts),
            "tier": tier_of(parts),
        },
        hardware={
            **describe_hardware(parts.device, job.mine.count),
            "dtype": images["dtype"],
            "decode_dtype": dtype_name(parts.decode_dtype),
            "engine": engine_name(job.request.engine, parts.generator, folder.batches_each(job.mine.count)),
        },
        versions={**versions(), **plug_in_versions(job, folder)},
        source=describe_source(job, folder),
    )


def tier_of(parts: Parts) -> str:
    """How far the images may be from those of the preset's own settings in float32."""
    own = parts.preset.sampling if parts.preset else {}
    return find_tier(parts.sampling, parts.generator.sampling_type, own, parts.coarsest)


def plug_in_versions(job: PreparedRun, folder: RunFolder) -> dict[str, str]:
    """Distribution and version of every third party's generator, tokenizer and extractor that made the numbers."""
    model, evaluation = str(job.request.model or ""), folder.settings["evaluation"]
    extractors = [] if evaluation is None else names_of(evaluation["extractor"])
    named = [
        (GENERATORS, model if ":" in model else job.parts.generator.method),
        (TOKENIZERS, job.parts.tokenizer_name),
        *((EXTRACTORS, str(name)) for name in extractors),
    ]
    return {name: version for door, plug_in in named for name, version in door.made_by(plug_in).items()}


def describe_source(job: PreparedRun, folder: RunFolder) -> dict[str, Any]:
    """Where the record comes from: the run folder, when, and the row of a paper's table that it measures."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    bound = {SHARDS_SHA256: folder.shards.sha256()}
    return {"kind": "measured", "run": folder.path.name, "date": date, **bound, **job.request.source}


def flops_per_image(parts: Parts) -> float | None:
    """Operations an image, counted from the shapes; None where the method or the decoder does not tell."""
    work = roofline(parts.generator, parts.settings, parts.tokenizer)
    return round(work.flops_per_image) if work is not None and work.phases["decode"] else None


def speed(folder: RunFolder) -> dict[str, Any]:
    """Seconds an image of one process, from the logged batches, apart by phase; memory is the largest of any process.

    The warm-up draw is not logged as a batch, and the shard writer runs beside: neither is in these times. A batch that
    is not full takes the time of a full one, and is counted as one. Seconds are on the clock; where decoding runs
    beside the drawing of the next batch, phases add up to more, and `overlaps` says so. Without a batch in the log, of
    a run whose disk was full say, no time is known.
    """
    shapes = {"batch_sizes": folder.shards.batch_sizes(), "excludes": EXCLUDED}
    batches = list(folder.events("batch"))
    if not batches:
        return shapes
    rows = [batch.get("rows", batch["images"]) for batch in batches]  # earlier versions did not pad
    images = sum(rows)
    seconds = sum(batch["seconds"] for batch in batches) / images
    phases = {name: sum(batch["phases"].get(name, 0.0) for batch in batches) / images for name in PHASES}
    if any(batch.get("beside") for batch in batches):
        shapes["overlaps"] = OVERLAPS
    peaks = [event["peak_memory_gib"] for event in folder.events("sampled")]
    return {
        "seconds_per_image": seconds,
        "images_per_second": 1 / seconds,
        "batch_size": statistics.mode(rows),
        "phases": phases,
        "peak_memory_gib": max(peaks, default=None),
        **shapes,
    }
