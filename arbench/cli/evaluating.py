"""The options of `arbench train` for evaluation on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from arbench.training.evaluation import Evaluating
    from arbench.training.jobs import Job

Every = Annotated[Optional[float], typer.Option("--eval-every", help="Epochs between evaluations of the average.")]
Steps = Annotated[Optional[int], typer.Option("--eval-steps", help="Steps between them, in place of epochs.")]
Images = Annotated[
    Optional[int], typer.Option("--eval-images", help="Images of an evaluation; 500 of the digits, else 50,000.")
]
Reference = Annotated[Optional[str], typer.Option("--eval-reference", help="Real images to compare with.")]
Extractor = Annotated[Optional[str], typer.Option("--eval-extractor", help="inception, digits-cnn, module:Class.")]
InceptionWeights = Annotated[Optional[str], typer.Option("--inception-weights", help="Inception's weights file.")]


def asked(jobs: Sequence[Job], given: Mapping[str, Any]) -> Evaluating | None:
    """How generators are evaluated while they train; None where nothing is `given`.

    Raises ValueError where none of `jobs` makes images.
    """
    from arbench.training.evaluation import Evaluating

    if all(value is None for value in given.values()):
        return None
    if all(job.kind != "generator" for job in jobs):
        raise ValueError(f"{jobs[0].target} is a {jobs[0].kind}; expected a generator to evaluate while it trains")
    return Evaluating(**given)
