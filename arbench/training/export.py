"""Weights as safetensors files and as the releases wrap them: what training hands to everyone else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import Release
from arbench.machine.files import whole_file
from arbench.protocols import Generator
from arbench.training.job import Job
from arbench.training.loop import Task
from arbench.training.tokenizer_task import TokenizerTask
from arbench.weights.convert import LAYOUTS
from arbench.weights.provenance import describe_tokenizer, entries, tokenizer_entries, writer_entries
from arbench.weights.write import write_safetensors


def export_release(path: Path, release: Release, raw: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    """Write both sets as a torch checkpoint, wrapped as the method's release wraps them."""
    sets = [{name: value.detach().cpu().contiguous() for name, value in state.items()} for state in (raw, averaged)]
    with whole_file(path) as partial:
        torch.save(LAYOUTS[release.layout](sets[0], sets[1]), partial)


def export_weights(
    path: Path,
    weights: dict[str, Tensor],
    *,
    target: str,
    config: TrainConfig,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write `weights` as float32 (integers as they are), whole or not at all, with target and recipe as metadata.

    `origin` are the entries that say which model these are weights of, and on which tokenizer (`weights.provenance`).
    Equal weights of equal origin are equal files.
    """
    tensors = {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in weights.items()
    }
    metadata = {"target": target, "training": json.dumps(config.as_dict(), sort_keys=True), **(origin or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        write_safetensors(partial, tensors, metadata)


def origin_of(job: Job, task: Task) -> dict[str, str]:
    """What a file of the weights of `task` says of itself."""
    if job.kind == "generator":
        return entries(job.target, cast("Generator", task.model), getattr(task, "tokenizer", None))
    if isinstance(task, TokenizerTask):
        return tokenizer_entries(describe_tokenizer(job.target, task.tokenizer, None, job.model_config))
    return writer_entries()
