"""What `arbench train` asks for a tokenizer that is trained itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from arbench.training.job import Job

PerceptualWeight = Annotated[
    Optional[float], typer.Option("--perceptual-weight", help="Tokenizers: of LPIPS in the loss; 0 needs no package.")
]
DiscriminatorWeight = Annotated[
    Optional[float], typer.Option("--discriminator-weight", help="Tokenizers: of the discriminator; 0 for none.")
]
DiscriminatorStart = Annotated[
    Optional[int], typer.Option("--discriminator-start", help="Tokenizers: the first step with a discriminator.")
]


def losses(perceptual_weight: float | None, discriminator_weight: float | None, start: int | None) -> dict | None:
    """Those terms of the loss that are given; None where there is none."""
    given = {
        "perceptual_weight": perceptual_weight,
        "discriminator_weight": discriminator_weight,
        "discriminator_start": start,
    }
    return {name: value for name, value in given.items() if value is not None} or None


def with_losses(job: Job, losses: Mapping[str, float]) -> Job:
    """`job` with those terms of its loss. Raises ValueError where it has none."""
    if losses and job.kind != "tokenizer":
        raise ValueError(f"--{next(iter(losses)).replace('_', '-')} is for tokenizers; {job.target!r} is none")
    return replace(job, losses={**job.losses, **losses})


def tokenizer_job(name: str, shared: Mapping[str, Any]) -> Job:
    """The job that trains the tokenizer `name` itself. Raises ValueError where it needs images that nobody gave."""
    from arbench.images.data import DIGITS, DIGITS_SIZE
    from arbench.training import tokenizer_job as recipes

    if shared["tokenizer_weights"] is not None:
        raise ValueError(
            f"--tokenizer-weights: {name!r} is what is trained; expected --init FILE to start from weights"
        )
    job = recipes.tokenizer_job(name, **{option: value for option, value in shared.items() if option != "tokenizer"})
    if job.data == DIGITS and job.size != DIGITS_SIZE:
        raise ValueError(f"{name!r} is trained on images of {job.size} px; expected --data DIR with a folder a class")
    return job
