"""What may be chosen on the page: models that are here, their classes by name, and the settings of a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arbench.generators.methods import all_settings, get_method, presets
from arbench.generators.spec import DIGITS
from arbench.images import imagenet
from arbench.report.values import setting_text
from arbench.runs.models import Parts
from arbench.sampling.noise import check_seed
from arbench.settings import Guidance, Setting, resolve_settings, settings_of
from arbench.weights.inventory import PRESENT, generators

IMAGENET = "ImageNet"
IDLE = {"top_k": 0, "top_p": 1.0, "cfg_interval": -1, "cfg_schedule": "constant"}  # settings that do nothing
MOST_IMAGES = 48  # of one drawing: they are drawn as one batch


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of every chosen model; None means the model's own setting."""

    labels: Sequence[int]
    per_class: int = 1
    seed: int = 0
    steps: int | None = None
    cfg_scale: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("no class is chosen; expected at least one")
        if not 1 <= len(self.labels) * self.per_class <= MOST_IMAGES:
            raise ValueError(
                f"{len(self.labels)} classes with {self.per_class} images each; expected 1 to {MOST_IMAGES} images"
            )
        check_seed(self.seed)

    @property
    def images(self) -> list[int]:
        """The class of every image."""
        return [label for label in self.labels for _ in range(self.per_class)]


def models_here() -> dict[str, list[str]]:
    """Presets whose weights and tokenizer are on this machine, by the data that they draw, in the order of listings."""
    here = {fact.name for fact in generators() if fact.state == PRESENT and fact.section == "generators"}
    found: dict[str, list[str]] = {}
    for name, preset in sorted(presets().items(), key=lambda item: get_method(item[1].method).order):
        if name in here:
            data = IMAGENET if preset.data is None else preset.data
            found.setdefault(data, []).append(name)
    return dict(sorted(found.items(), key=lambda item: item[0] != DIGITS))


def first_models(models: Sequence[str]) -> list[str]:
    """The first model of each method."""
    firsts: dict[str, str] = {}
    for name in models:
        firsts.setdefault(presets()[name].method, name)
    return list(firsts.values())


def classes_of(data: str, num_classes: int) -> list[tuple[str, int]]:
    """(name, number) of every class: ImageNet's names with the number, else the number alone."""
    if data == IMAGENET:
        return [(f"{name.split(',')[0]} ({index})", index) for index, name in enumerate(imagenet.class_names())]
    return [(str(index), index) for index in range(num_classes)]


def step_setting(sampling_type: type) -> Setting | None:
    """The setting that makes a generation shorter, iterations before steps of the head; None where all is fixed."""
    known = settings_of(sampling_type)
    return next((known[name] for name in all_settings() if name in known and known[name].shortens), None)


def settings_for(parts: Parts, wish: Wish) -> Guidance:
    """The sampling settings of one model: as wished, else its own. Raises ValueError for a value out of range."""
    kind = parts.generator.sampling_type
    known, steps = settings_of(kind), step_setting(kind)
    wished: dict[str, Any] = {"cfg_scale": wish.cfg_scale, "temperature": wish.temperature}
    if steps is not None:
        wished[steps.name] = wish.steps
    given = {name: value for name, value in wished.items() if value is not None and name in known}
    return resolve_settings(parts.generator, given)


def settings_text(sampling: Mapping[str, Any]) -> str:
    """A record's sampling settings in words, those that do nothing left out."""
    known = all_settings()
    return ", ".join(
        setting_text(name, value) for name, value in sampling.items() if name in known and value != IDLE.get(name)
    )
