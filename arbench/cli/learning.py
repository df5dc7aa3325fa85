"""What `arbench train` asks for a tokenizer that is trained itself, and for a training that is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
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


def repeated_job(config: str, others: tuple[str | None, ...], shared: dict[str, Any]) -> Job:
    """The job of a config.yaml. Raises ValueError where something else is asked for as well."""
    from arbench.training.job import read_job

    if any(other is not None for other in others):
        raise ValueError(
            f"--config {config} says what is trained; expected no --experiment, --row, --target, --method or --model"
        )
    losses = shared.pop("losses", None) or {}
    return with_losses(read_job(Path(config), **shared), losses)


def with_losses(job: Job, losses: Mapping[str, float]) -> Job:
    """`job` with those terms of its loss. Raises ValueError where it has none."""
    if losses and job.kind != "tokenizer":
        raise ValueError(f"--{next(iter(losses)).replace('_', '-')} is for tokenizers; {job.target!r} is none")
    return replace(job, losses={**job.losses, **losses})


def tokenizer_job(name: str, shared: Mapping[str, Any]) -> Job:
    """The job that trains the tokenizer `name` itself. Raises ValueError where weights are given as if it were used."""
    from arbench.training import tokenizer_job as recipes

    if shared["tokenizer_weights"] is not None:
        raise ValueError(
            f"--tokenizer-weights: {name!r} is what is trained; expected --init FILE to start from weights"
        )
    return recipes.tokenizer_job(name, **{option: value for option, value in shared.items() if option != "tokenizer"})
