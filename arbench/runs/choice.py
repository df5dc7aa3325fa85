"""Which generator and tokenizer a run means, and from which weights: what is given, what files say, what is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbench.generators.methods import get_method, get_preset, method_by_module, method_names, presets
from arbench.generators.spec import Method, Preset
from arbench.registry import unknown_name
from arbench.weights.cards import cards_for, find_weights, how_to_get
from arbench.weights.provenance import RANDOM, Provenance, read_provenance, require_method

DEFAULT_METHOD = "mar"


def choose_model(method: str | None, model: str | None, told: Provenance | None = None) -> str:
    """The generator that `method` and `model` name together; where no model is given, what the weights say that they
    are (`told`), else the embedded digits model.

    `model` is a preset, a method, or `module:Name` of a method that is not installed.

    Raises ValueError for an unknown method or model, also where it is the weights' own, and where they disagree.
    """
    if told is not None and (model is None or told.method in (method, model)):
        require_method(told)
    spec = get_method(method or DEFAULT_METHOD)  # tells the nearest, or what is wrong with a plug-in
    if model is None and told is not None and method in (None, told.method):
        return told.name if told.name in presets() else told.method
    if model is None and told is not None and told.method not in spec.borrows:
        raise ValueError(f"{told.path}: holds {told.method} weights; expected --method {told.method}, not {method}")
    if model is None:
        return _stands_for(spec)
    if ":" in model:
        named = method_by_module(model)
        found, model = named.name, _stands_for(named)
    elif model in presets():
        found = get_preset(model).method
    elif model in method_names():
        found = model
    else:
        raise unknown_name("model", model, (*presets(), *method_names()))
    if method is not None and found != method:
        raise ValueError(f"model {model!r} is of method {found!r}, not {method!r}; expected --method {found}")
    return model


def _stands_for(method: Method) -> str:
    """What a method alone means: its preset of the digits, or its first, or where it has none itself."""
    return method.name if method.default_preset is None else method.default_preset.name


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which generator and tokenizer, from which weights: files, "random", or None for a tokenizer that has its own."""

    model: str
    preset: Preset | None
    weights: str | Path
    told: Provenance | None  # what the generator's file says of itself
    tokenizer: str
    tokenizer_weights: str | Path | None
    tokenizer_config: dict[str, Any]

    @property
    def method(self) -> Method:
        """Of the model."""
        return get_method(self.preset.method if self.preset else self.model)

    @property
    def files(self) -> list[Path]:
        """The weights that are files."""
        both = (self.weights, self.tokenizer_weights)
        return [Path(file) for file in both if file is not None and str(file) != RANDOM]


def choose_files(
    method: str | None,
    model: str | None,
    tokenizer: str | None,
    weights: str | Path | None,
    tokenizer_weights: str | Path | None,
    tokenizer_config: dict[str, Any],
) -> Chosen:
    """What is to be loaded: what was given, else what the generator's file says it was trained with, else the preset's.

    Raises ValueError or OSError as `load_parts` does, before a model is made.
    """
    told = read_provenance(weights)
    name = choose_model(method, model, told)
    preset = presets().get(name)
    if weights is None:
        weights = find_generator_weights(name)
        told = read_provenance(weights)
    own = told.tokenizer if told else None
    chosen = tokenizer or (own.name if own else None) or (preset.tokenizer if preset else None)
    if chosen is None:
        raise ValueError(f"model {name!r} is a family without a tokenizer of its own; expected --tokenizer NAME")
    require_released_tokenizer(name, preset, weights, chosen, told)
    if own is not None and chosen == own.name and not tokenizer_config:
        tokenizer_config = dict(own.config)
    if tokenizer_weights is None:
        tokenizer_weights = given_by_hand(told, chosen)
    if tokenizer_weights is None:
        tokenizer_weights = find_tokenizer_weights(chosen, may_be_random=str(weights) == RANDOM)
    return Chosen(
        model=name,
        preset=preset,
        weights=weights,
        told=told,
        tokenizer=chosen,
        tokenizer_weights=tokenizer_weights,
        tokenizer_config=tokenizer_config,
    )


def given_by_hand(told: Provenance | None, tokenizer: str) -> Path | None:
    """The tokenizer's file that was given when the weights were trained, None where it goes by its name.

    Raises ValueError where that file is no longer there.
    """
    if told is None or told.tokenizer is None or told.tokenizer_file is None or told.tokenizer.name != tokenizer:
        return None
    if not told.tokenizer_file.is_file():
        raise ValueError(
            f"{told.path}: was trained with the tokenizer file {told.tokenizer_file}, which is not there; "
            f"expected --tokenizer-weights FILE with SHA-256 {told.tokenizer.sha256}"
        )
    return told.tokenizer_file


def require_released_tokenizer(
    model: str, preset: Preset | None, weights: str | Path, tokenizer: str, told: Provenance | None
) -> None:
    """Raise ValueError where a release's own file, which says nothing of its tokenizer, is given another one."""
    if told is not None or preset is None or tokenizer == preset.tokenizer:
        return
    released = [card for card in cards_for(model) if Path(weights).as_posix().endswith(card.file)]
    if released:
        raise ValueError(
            f"{weights}: the released weights of {model!r} were trained on the tokens of {preset.tokenizer!r}, which "
            f"{tokenizer!r} cannot decode; expected --tokenizer {preset.tokenizer}, or other --weights"
        )


def find_generator_weights(name: str) -> Path:
    """The weights of `name` on this machine: shipped or downloaded. Raises ValueError where there are none."""
    found = find_weights(name)
    if found is None:
        raise ValueError(f"model {name!r}: {lacking_weights('--weights', name)}")
    return found


def find_tokenizer_weights(name: str, *, may_be_random: bool) -> Path | str | None:
    """The weights of tokenizer `name` on this machine, None for a stranger's that sees to its own.

    Raises ValueError for an unknown tokenizer, and for a released one whose file is not here, unless it may be random.
    """
    found = find_weights(name)
    if found is not None or not cards_for(name):
        return found
    if may_be_random:
        return RANDOM
    raise ValueError(f"tokenizer {name!r}: {lacking_weights('--tokenizer-weights', name)}")


def lacking_weights(option: str, name: str) -> str:
    """What to do about weights that are not here."""
    cards = cards_for(name)
    hint = f" ({how_to_get(cards[0])})" if cards else ""
    return f"no weights on this machine; expected {option} FILE{hint}, or {option} random to try the code"
