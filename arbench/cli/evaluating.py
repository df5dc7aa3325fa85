"""The options of `arbench train` for evaluation on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from arbench.training.evaluation import Evaluating
    from arbench.training.job import Job

Every = Annotated[Optional[float], typer.Option("--eval-every", help="Epochs between evaluations of the average.")]
Steps = Annotated[Optional[int], typer.Option("--eval-steps", help="Steps between them, in place of epochs.")]
Images = Annotated[
    Optional[int], typer.Option("--eval-images", help="Images of an evaluation; 500 of the digits, else 50,000.")
]
Guidance = Annotated[
    Optional[str],
    typer.Option(
        "--eval-cfg", help="Guidance of each evaluation: 1.0,3.0; the first says which is the best. Else the recipe's."
    ),
]
Reference = Annotated[Optional[str], typer.Option("--eval-reference", help="Real images to compare with.")]
Extractor = Annotated[Optional[str], typer.Option("--eval-extractor", help="inception, digits-cnn, module:Class.")]
InceptionWeights = Annotated[Optional[str], typer.Option("--inception-weights", help="Inception's weights file.")]


def asked(jobs: Sequence[Job], given: Mapping[str, Any]) -> Evaluating | None:
    """How generators are evaluated while they train; None where nothing is `given`, `cfg_scales` as text with commas.

    Raises ValueError where none of `jobs` makes images, and for a guidance that cannot be.
    """
    from arbench.settings import CFG_SCALE
    from arbench.training.evaluation import Evaluating

    if all(value is None for value in given.values()):
        return None
    if all(job.kind != "generator" for job in jobs):
        raise ValueError(f"{jobs[0].target} is a {jobs[0].kind}; expected a generator to evaluate while it trains")
    told = given.get("cfg_scales")
    scales = () if told is None else tuple(CFG_SCALE.read(part.strip()) for part in told.split(","))
    return Evaluating(**{**given, "cfg_scales": scales})
