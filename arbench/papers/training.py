"""Weights of experiment rows that are trained from scratch: one training for all rows that differ in sampling only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arbench.generators.recipe import TrainConfig
from arbench.images.data import open_data
from arbench.machine.log import read_lines
from arbench.papers.experiment import SHIPPED, UNRELEASED, Row
from arbench.papers.plan import weights_file
from arbench.registry import unknown_name
from arbench.runs.request import IF_STARTED
from arbench.training.asked import digits_job, method_job, with_settings
from arbench.training.checkpoint import saved_steps
from arbench.training.job import Job
from arbench.training.jobs import run_job
from arbench.training.log import LOG_NAME
from arbench.training.recipes import digits_recipes
from arbench.training.speed import recipe_step_seconds
from arbench.training.tokens import Progress, no_progress, no_words
from arbench.validation import check, hints_of


def training_job(row: Row, seed: int, **shared: Any) -> Job:
    """The job that trains the generator of `row`: the recipe of its preset, with the row's own settings on top.

    `training` of the row holds settings of the recipe (`epochs` or `steps`, `batch_size`, `learning_rate` …), `shared`
    those of a `Job` (`data`, `tokenizer_weights`, `device` …). Raises ValueError where the row has no generator, its
    model no recipe, or a setting is not one.
    """
    if row.model is None or row.method is None:
        raise ValueError(f"row {row.name!r} has no generator to train")
    settings = {
        "tokenizer": row.tokenizer,
        "tokenizer_config": dict(row.tokenizer_config),
        "model_config": dict(row.config),
        **shared,
    }
    if settings["tokenizer"] == row.tokenizer:
        settings["tokenizer_weights"] = settings.get("tokenizer_weights") or _tokenizer_file(row)
    else:  # another one is asked for, which the row's file and configuration are not of
        settings["tokenizer_config"] = {}
    given = dict(row.training)
    if row.model in digits_recipes():
        job = digits_job(row.model, **settings)
    else:
        job = method_job(row.method, row.model, given=given, **settings)
    hints = hints_of(TrainConfig)
    for name, value in given.items():
        if name not in hints:
            raise ValueError(f"row {row.name!r}: {unknown_name('setting of training', name, hints)}")
        check(f"row {row.name!r}: {name} of its training", value, hints[name])
    config = with_settings(job.config, **given, seed=seed)
    return Job(**{**vars(job), "config": config})


def _tokenizer_file(row: Row) -> str | None:
    """The file of the row's tokenizer on this machine; None leaves it to the tokenizer's name.

    Raises ValueError where the row's own weights are not here.
    """
    if row.tokenizer_weights in (None, SHIPPED):
        return None
    file = None if row.tokenizer_weights == UNRELEASED else weights_file(str(row.tokenizer_weights))
    if file is None:
        told = "not released" if row.tokenizer_weights == UNRELEASED else f"not here ({row.tokenizer_weights})"
        raise ValueError(f"row {row.name!r}: its tokenizer's weights are {told}; expected --tokenizer-weights FILE")
    return str(file)


def trained_weights(
    row: Row, seed: int, out: Path, progress: Progress = no_progress, say: Callable[[str], None] = no_words
) -> Path:
    """The weights of `row` for one seed, trained now unless they lie under `out`; an interrupted training goes on from
    its newest intact checkpoint."""
    job = training_job(row, seed)
    folder = _folder(row, seed, out)
    if job.weights_path(folder).is_file():
        return job.weights_path(folder)
    return run_job(job, folder, resume=IF_STARTED, progress=progress, say=say)


def training_facts(row: Row, seed: int, out: Path) -> dict[str, float]:
    """What a record tells of the training of `row` for one seed under `out`: its steps, and the time they took.

    Its steps alone where no log of it can be read.
    """
    folder, job = _folder(row, seed, out), training_job(row, seed)
    lines = read_lines(job.folder(folder) / LOG_NAME)
    if not lines:
        return {"steps": job.config.steps}
    last, suffix = lines[-1], "_per_step"
    times = {name.removesuffix(suffix): last["step"] * last[name] for name in last if name.endswith(suffix)}
    return {"steps": last["step"], **{name: round(value, 3) for name, value in times.items()}}


def _folder(row: Row, seed: int, out: Path) -> Path:
    return out / f"{row.model}-{training_digest(row)}" / f"seed-{seed}"


def training_digest(row: Row) -> str:
    """Eight hexadecimal digits that rows share whose generators are trained alike."""
    deciding = [row.model, dict(row.config), row.tokenizer, dict(row.tokenizer_config), dict(row.training)]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]


def steps_left(row: Row, seed: int, out: Path) -> int:
    """Steps that the training of `row` for one seed lacks under `out`; 0 where its weights are there."""
    job, folder = training_job(row, seed), _folder(row, seed, out)
    if job.weights_path(folder).is_file():
        return 0
    config = job.config.for_images(len(open_data(job.data, size=job.size))) if job.config.epochs else job.config
    done = max(saved_steps(job.folder(folder)), default=0)
    return max(0, config.steps - done)


def step_seconds_here(row: Row, count: int) -> float:
    """Seconds of a step of the training of `row` on this machine: the median of `count` ones, on random tokens."""
    job = training_job(row, row.seeds[0])
    return recipe_step_seconds(str(row.model), job.config, job.model_config, torch.device(job.device), count)
