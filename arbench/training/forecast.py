"""What a training would take on GPUs that are not here: the plan, for any number of them, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from arbench.generators.methods import get_preset
from arbench.generators.spec import DIGITS
from arbench.images.data import open_data
from arbench.images.imagenet import TRAINING_IMAGES
from arbench.training.engine import Engine
from arbench.training.job import Job
from arbench.training.jobs import with_settings
from arbench.training.parts import fit_micro_batches
from arbench.training.plan import plan_training


def forecast(
    jobs: Sequence[Job],
    gpus: int,
    engine: Engine,
    changes: Mapping[str, Any],
    *,
    data: str | None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """The plans of those `jobs` that train generators, with the recipes' settings changed, on `gpus` GPUs.

    A model of ImageNet is planned for ImageNet's images where no `data` are named. Raises ValueError where the batch
    cannot be shared by so many, or nothing of `jobs` has a plan.
    """
    planned = [job for job in jobs if job.kind == "generator"]
    if not planned:
        raise ValueError(f"{jobs[0].target} is a {jobs[0].kind}; expected a generator to plan the training of")
    for job in planned:
        is_digits = get_preset(job.target).data == DIGITS
        images = TRAINING_IMAGES if data is None and not is_digits else len(open_data(job.data, size=job.size))
        config = with_settings(job.config, scale_rate=not is_digits, say=say, **changes).for_images(images)
        plan = plan_training(job.target, fit_micro_batches(config, gpus, say), gpus, engine, job.model_config)
        yield from plan.lines(None)
