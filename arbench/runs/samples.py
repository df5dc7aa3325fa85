"""Images for chosen classes, as the rows of a grid; nothing is stored or scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from arbench.images import imagenet
from arbench.machine.timing import PhaseTimer
from arbench.runs.memory import automatic_batch, estimate_memory
from arbench.runs.models import Parts, class_names
from arbench.runs.pipeline import OnStep, Pipeline, draw_fitting, no_step
from arbench.runs.request import AUTO
from arbench.sampling.engine import engine_name, make_engine


def parse_labels(text: str, num_classes: int) -> list[int]:
    """Class numbers of a comma-separated list of numbers, or names where the classes are ImageNet's.

    Raises ValueError for an empty list, an unknown name or a number that is no class.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"labels {text!r}: expected class numbers such as 3,7")
    if num_classes == imagenet.NUM_CLASSES:
        return [imagenet.class_index(word) for word in words]
    for word in words:
        if not (word.isascii() and word.isdigit()) or int(word[:18]) >= num_classes:
            raise ValueError(f"label {word!r}: expected a class number from 0 to {num_classes - 1}")
    return [int(word) for word in words]


def sample_rows(
    parts: Parts,
    labels: Sequence[int],
    per_class: int,
    *,
    seed: int = 0,
    batch_size: int | str = AUTO,
    progress: Callable[[int], None] = lambda images: None,
    step: OnStep = no_step,
    engine: str = AUTO,
) -> list[tuple[str, np.ndarray]]:
    """(class name, images (per_class, H, W, 3) uint8) for each of `labels`; image ids count through the rows.

    `progress` is told of images that are done, `step` of the steps of the batch that is being drawn (`draw_fitting`).
    """
    wanted = np.repeat(np.asarray(labels, dtype=np.int64), per_class)
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=wanted,
        settings=parts.settings,
        seed=seed,
        device=parts.device,
        image_size=parts.image_size,
        engine=make_engine(engine, parts.generator),
    )
    if batch_size == AUTO:
        chosen = engine_name(engine, parts.generator)
        estimate = estimate_memory(parts.generator, parts.tokenizer, parts.decoded_size, chosen)
        batch_size = automatic_batch(estimate, parts.device, len(wanted))
    assert isinstance(batch_size, int)
    batches: list[np.ndarray] = []
    missing = range(len(wanted))
    while missing:
        drawing, batch_size = draw_fitting(pipeline, missing, batch_size, lambda: PhaseTimer(parts.device), step)
        batch = drawing.images()
        batches.append(batch)
        missing = missing[len(batch) :]
        progress(len(batch))
    images = np.concatenate(batches)
    names = class_names(parts)
    return [(names[label], images[row * per_class : (row + 1) * per_class]) for row, label in enumerate(labels)]
