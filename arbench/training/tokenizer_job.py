"""The training of a tokenizer from its recipe to what `train` is given: terms, images, networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from arbench.images.data import DIGITS, DIGITS_SIZE, open_data
from arbench.tokenizer.load import find_tokenizer, load_tokenizer
from arbench.tokenizer.recipe import TokenizerLosses, trainable
from arbench.training.crops import CroppedBatches
from arbench.training.data import ImageBatches
from arbench.training.discriminator import smallest_side
from arbench.training.job import Job, checked_size
from arbench.training.perceptual import load_perceptual
from arbench.training.tokenizer_task import Batches, TokenizerTask
from arbench.weights.load import without_memory

if TYPE_CHECKING:
    from arbench.images.data import ImageData
    from arbench.protocols import TrainableTokenizer


def tokenizer_job(
    name: str, *, size: int | None = None, losses: Mapping[str, Any] | None = None, **options: Any
) -> Job:
    """The job of a tokenizer by the recipe beside it, with those of `losses` that are given in place of its own.

    Raises ValueError for an unknown tokenizer or one that does not learn, and for an impossible or unknown loss.
    """
    recipe = trainable(name).recipe
    options.setdefault("config", recipe.config)
    resolved = recipe.losses.changed(losses or {}).as_dict()
    return Job(target=name, kind="tokenizer", size=checked_size(size) or recipe.size, losses=resolved, **options)


def empty_tokenizer(job: Job) -> Any:
    """The tokenizer of a job without memory and values."""
    with without_memory():
        return find_tokenizer(job.target)(**job.model_config)


def tokenizer_task(job: Job, data: ImageData, device: torch.device) -> Callable[[], TokenizerTask]:
    """What makes the task of a tokenizer's job on `data`, under the run's seed.

    Raises ValueError where LPIPS or the weights to start from are not to be had.
    """
    losses = TokenizerLosses(**job.losses)
    perceptual = load_perceptual(device) if losses.perceptual_weight else None
    batches = tokenizer_batches(job, data, device)
    given = None if job.init is None else _module(job, job.init)  # a file that does not fit is told at once

    def make() -> TokenizerTask:
        tokenizer = (given or _module(job, "random")).to(device)
        learner = cast("TrainableTokenizer", tokenizer)
        return TokenizerTask(learner, batches, losses, perceptual=perceptual, fresh=given is None)

    return make


def check_sides(job: Job, data: ImageData) -> None:
    """Raise ValueError where images are missing, no whole number of tokens, or too small for a discriminator."""
    if job.data == DIGITS and (job.size or 0) > DIGITS_SIZE:
        raise ValueError(f"{job.target!r} is trained on images of {job.size} px; expected --data DIR, a folder a class")
    losses, sides = TokenizerLosses(**job.losses), (job.size,) if job.size else data[0][0].shape[:2]
    unit = empty_tokenizer(job).downsample
    least = smallest_side(losses.discriminator_layers) if losses.discriminator_weight else 1
    for side in sides:
        if side % unit:
            raise ValueError(f"--size {side}: expected a multiple of {unit}, a token of {job.target!r}")
        if side < least:
            raise ValueError(
                f"--size {side}: the discriminator judges images of {least} px or more; expected these, or "
                "--discriminator-weight 0"
            )


def tokenizer_batches(job: Job, data: ImageData, device: torch.device) -> Batches:
    """Images of `data`, or random crops out of the pictures as they are stored where the recipe wants them."""
    if not job.config.crop_share:
        return ImageBatches(data, job.config.augmentation, device, job.workers or 0)
    assert job.size is not None
    return CroppedBatches(open_data(job.data), job.size, job.config, device, job.workers or 0)


def _module(job: Job, weights: str | Path) -> torch.nn.Module:
    tokenizer = load_tokenizer(job.target, weights=weights, **job.model_config)
    assert isinstance(tokenizer, torch.nn.Module)
    return tokenizer
