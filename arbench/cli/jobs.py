"""From what `arbench train` is told to the jobs that it runs: a row of a table, a recipe, a method, a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from arbench.cli import learning
from arbench.registry import TOKENIZERS, unknown_name

if TYPE_CHECKING:
    from arbench.training.job import Job

ANY_LENGTH: dict[str, Any] = {"steps": 1, "batch_size": 1, "learning_rate": 1.0}  # where views alone are asked


def asked_jobs(
    named: Mapping[str, str | None],
    of_table: tuple[str | None, str | None],
    shared: dict[str, Any],
    out: Path,
    changes: Mapping[str, Any],
) -> tuple[list[Job], Path]:
    """The jobs that a command line asks for, and the folder that holds theirs.

    `named` are the values of --config, --target, --method and --model, `of_table` experiment and row, `shared` what all
    jobs have. Raises ValueError where it does not say what to train, or says it twice.
    """
    from arbench.papers.experiment import load_experiment
    from arbench.training.job import is_job_file

    experiment, row = of_table
    config, *others = named.values()
    if is_job_file(config):
        return [learning.repeated_job(str(config), (*of_table, *others), shared)], out
    if experiment is not None or row is not None:
        jobs = [row_job(experiment, row, tuple(named.values()), shared)]
        # The rows of a table share their models' names; `row_job` has found both.
        return jobs, out / load_experiment(str(experiment)).name / str(row)
    shared = {**shared, "data": shared["data"] or "digits"}
    return plan_jobs(config, named["target"], named["method"], named["model"], shared, out, changes), out


def row_job(experiment: str | None, row: str | None, others: tuple[str | None, ...], shared: dict[str, Any]) -> Job:
    """The job of a table's row. Raises ValueError where it is not named, or something else is asked for as well."""
    from arbench.generators.methods import get_preset
    from arbench.generators.spec import DIGITS
    from arbench.papers.experiment import load_experiment
    from arbench.papers.training import training_job

    if experiment is None or row is None:
        raise ValueError("a row to train is named by both: --experiment TABLE --row NAME")
    if any(other is not None for other in others):
        raise ValueError(f"--row {row} says what is trained; expected no --config, --target, --method or --model")
    given = {name: value for name, value in shared.items() if value is not None}
    job = training_job(load_experiment(experiment).row(row), seed=0, **given)
    if shared["data"] is None and get_preset(job.target).data != DIGITS:
        raise ValueError(f"row {row} is of ImageNet; expected --data DIR with a folder of images a class")
    return job


def plan_jobs(
    config: str | None,
    target: str | None,
    method: str | None,
    model: str | None,
    shared: dict[str, Any],
    out: Path,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> list[Job]:
    """The jobs a command line asks for, in the order they need each other; `changes` stand in for a missing recipe.

    Raises ValueError where it does not say what to train.
    """
    from arbench.generators.methods import get_preset
    from arbench.runs.choice import choose_model
    from arbench.training.asked import digits_job, method_job
    from arbench.training.recipes import CONFIGS, digits_recipes

    recipes = digits_recipes()
    if config is not None and config not in CONFIGS:
        raise unknown_name("training config", config, CONFIGS)
    if method is None and model is None and target in (None, *TOKENIZERS.installed()) and target not in recipes:
        name = target or shared["tokenizer"]
        if name is not None:
            return [learning.tokenizer_job(name, shared)]
    if target is None:
        if method is None and model is None:
            targets = f"--target ({', '.join(recipes)} or all)"
            raise ValueError(f"nothing to train: give {targets}, --tokenizer NAME, or --method and --model")
        target = model = choose_model(method, model)
    if target == "all":
        return [digits_job(name, **_fresh_tokenizer(name, shared, out)) for name in recipes]
    if target in recipes:
        return [digits_job(target, **shared)]
    if model is None:
        raise unknown_name("training target", target, [*recipes, "all"])
    return [method_job(method or get_preset(model).method, model, given=changes, **shared)]


def _fresh_tokenizer(name: str, shared: dict[str, Any], out: Path) -> dict[str, Any]:
    """Settings of one target of `all`: generators are trained on the tokenizer that was trained just before."""
    from arbench.training.asked import digits_job
    from arbench.training.recipes import get_recipe

    tokenizer = get_recipe(name).tokenizer
    if tokenizer is None or shared["tokenizer_weights"] is not None:
        return shared
    return {**shared, "tokenizer_weights": str(digits_job(tokenizer).weights_path(out))}


def asked_cache(
    model: str | None, shared: dict[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `arbench cache` is asked for: `shared` (data, size, tokenizer) as the training of `model` has it, with the
    model as "target", and the views.

    `given` are views, flip, seed and view_set. Raises ValueError where they contradict each other.
    """
    from arbench.generators.recipe import VIEW_SETS, Augmentation, TrainConfig
    from arbench.training.asked import with_settings
    from arbench.training.job import checked_size
    from arbench.training.tokens import seen_by

    view_set, views = given["view_set"], given["views"]
    if view_set is not None and view_set not in VIEW_SETS:
        raise unknown_name("view set", view_set, VIEW_SETS)
    if view_set not in (None, "random") and (views is not None or given["flip"]):
        raise ValueError(f"--view-set {view_set} says which views there are; expected no --views and no --flip with it")
    if model is None:
        asked = {**shared, "target": None, "size": checked_size(shared["size"])}
        config = TrainConfig(**ANY_LENGTH, augmentation=Augmentation(flip=given["flip"]))
    else:
        if given["flip"]:
            raise ValueError(f"--flip: the recipe of {model} says how its views are drawn; expected no --flip")
        (job,) = plan_jobs(None, None, None, model, shared, Path(), ANY_LENGTH)
        asked, config = {name: getattr(job, name) for name in (*shared, "target")}, job.config
    settings = {"views": views, "seed": given["seed"], "view_set": view_set}
    return asked, seen_by(with_settings(config, **settings))
