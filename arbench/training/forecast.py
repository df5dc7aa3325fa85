"""What a training would take on GPUs that are not here: the plan, for any number of them, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from arbench.generators.methods import get_preset
from arbench.generators.spec import DIGITS
from arbench.images.data import open_data
from arbench.images.imagenet import TRAINING_IMAGES
from arbench.training.asked import with_settings
from arbench.training.encoding import encoding_of
from arbench.training.engine import Engine
from arbench.training.job import Job
from arbench.training.parts import fit_micro_batches
from arbench.training.plan import plan_training
from arbench.training.recipes import TOKENIZERS
from arbench.training.tokenizer_plan import plan_tokenizer


def forecast(
    jobs: Sequence[Job],
    gpus: int,
    engine: Engine,
    changes: Mapping[str, Any],
    *,
    data: str | None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """The plans of those `jobs` that train generators or tokenizers, their settings changed, on `gpus` GPUs.

    A model of ImageNet is planned for ImageNet's images where no `data` are named. Raises ValueError where the batch
    cannot be shared by so many, or nothing of `jobs` has a plan.
    """
    planned = [job for job in jobs if job.kind != "classifier"]
    if not planned:
        raise ValueError(f"{jobs[0].target} is a {jobs[0].kind}; expected a generator or a tokenizer to plan")
    for job in planned:
        of_images = job.kind == "tokenizer"
        is_digits = job.target in TOKENIZERS if of_images else get_preset(job.target).data == DIGITS
        images = TRAINING_IMAGES if data is None and not is_digits else len(open_data(job.data, size=job.size))
        config = with_settings(job.config, scale_rate=not is_digits, say=say, **changes).for_images(images, say)
        fitted = fit_micro_batches(config, gpus, say)
        if of_images:
            yield from plan_tokenizer(replace(job, config=fitted), gpus, engine).lines(None)
        else:
            encoding = encoding_of(replace(job, config=fitted))
            yield from plan_training(job.target, fitted, gpus, engine, job.model_config, encoding).lines(None)
