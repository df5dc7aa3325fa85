"""The training that a name and settings ask for: a recipe of the digits or of a paper, changed by what is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from arbench.generators.methods import get_method, get_preset
from arbench.generators.recipe import TrainConfig
from arbench.images.data import DIGITS_SIZE
from arbench.training.job import Job, checked_size
from arbench.training.parts import check_micro_batches
from arbench.training.recipes import get_recipe
from arbench.training.tokenizer_job import tokenizer_job
from arbench.training.tokens import no_words


def digits_job(target: str, *, size: int | None = None, tokenizer: str | None = None, **options: Any) -> Job:
    """The job of a digits recipe, also on other data; ValueError where there is no such target."""
    recipe = get_recipe(target)
    if recipe.kind == "tokenizer":
        return tokenizer_job(target, size=size, tokenizer=tokenizer, **options)
    _refuse_losses(target, options.pop("losses", None))
    options.setdefault("config", recipe.config)
    tokenizer = tokenizer or recipe.tokenizer
    return Job(target=target, kind=recipe.kind, size=checked_size(size) or DIGITS_SIZE, tokenizer=tokenizer, **options)


def _refuse_losses(target: str, losses: Mapping[str, Any] | None) -> None:
    """Raise ValueError where terms of a tokenizer's loss are given for something else."""
    if losses:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in losses)
        raise ValueError(f"{named} is for tokenizers; {target!r} is none")


def method_job(
    method: str,
    model: str,
    *,
    size: int | None = None,
    tokenizer: str | None = None,
    given: Mapping[str, Any] | None = None,
    **options: Any,
) -> Job:
    """A generator on one's own data with its paper's recipe, where it has one.

    `given` are settings that take the place of a recipe. Raises ValueError where method and model disagree, and where
    neither the method nor `given` says how to train.
    """
    _refuse_losses(model, options.pop("losses", None))
    check_method(method, model)
    preset, spec = get_preset(model), get_method(method)
    options.setdefault("config", spec.trained_by(preset) or plain_recipe(method, given or {}))
    tokenizer = tokenizer or preset.tokenizer
    return Job(
        target=model, kind="generator", size=checked_size(size) or preset.image_size, tokenizer=tokenizer, **options
    )


def plain_recipe(method: str, given: Mapping[str, Any]) -> TrainConfig:
    """How a method without a recipe is trained: by what every training needs. ValueError where `given` lacks any."""
    length = "epochs" if given.get("epochs") and not given.get("steps") else "steps"
    needed = {name: given.get(name) for name in (length, "batch_size", "learning_rate")}
    lacking = [name for name, value in needed.items() if value is None]
    if lacking:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in lacking)
        raise ValueError(f"method {method!r} has no training recipe; expected {options} with it")
    return TrainConfig(**needed)  # type: ignore[arg-type]


def check_method(method: str, model: str) -> None:
    """Raise ValueError where there is no such method or model, or the model is of another method."""
    get_method(method)
    found = get_preset(model).method
    if found != method:
        raise ValueError(f"model {model!r} is of method {found!r}, not {method!r}; expected --method {found}")


def with_settings(
    config: TrainConfig, *, scale_rate: bool = False, say: Callable[[str], None] = no_words, **settings: Any
) -> TrainConfig:
    """`config` with those settings that are not None.

    Raises ValueError where `steps` and `epochs` are both given, or `micro_batches` that the batch cannot be cut into.

    With `scale_rate` the learning rate, where it is not given, follows the batch size in proportion: the papers state
    theirs as 1e-4 a batch of 256; `say` is told.
    """
    if scale_rate and settings.get("batch_size") and settings.get("learning_rate") is None:
        settings["learning_rate"] = config.learning_rate * settings["batch_size"] / config.batch_size
        if settings["batch_size"] != config.batch_size:
            say(
                f"batch_size {config.batch_size} -> {settings['batch_size']}: the learning rate follows, "
                f"{config.learning_rate:.4g} -> {settings['learning_rate']:.4g}, and epochs stay epochs"
            )
    given = {name: value for name, value in settings.items() if value is not None}
    if given.get("steps") and given.get("epochs"):
        raise ValueError(f"--steps {given['steps']} and --epochs {given['epochs']:g}: expected one of them")
    if given.get("steps"):
        given.setdefault("epochs", 0.0)
    elif given.get("epochs"):
        given["steps"] = 0
    if given.get("views"):
        given.setdefault("view_set", "random")
    changed = dataclasses.replace(config, **given)
    check_micro_batches(changed.batch_size, given.get("micro_batches"))
    return changed
