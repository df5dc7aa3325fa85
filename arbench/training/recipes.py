"""The recipes of the digits: what is trained on what, with which settings.

A generator's is that of its method, a tokenizer's stands beside it.

They made the weights that ship, on two CPU cores, each by one command:

    arbench train --config digits --target NAME        (and --target all: in this order)

and each result was copied from `runs/train/NAME/NAME.safetensors` to the path in its `asset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arbench.generators.methods import OursFirst
from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.generators.spec import DIGITS, Method
from arbench.registry import unknown_name
from arbench.tokenizer.recipe import trainable

KINDS = ("classifier", "tokenizer", "generator")

# Rough enough that the classifier reads a generated digit that is drawn a little differently from all real ones.
ROUGH = Augmentation(shift=2.5, rotation=12, scale=0.12, shear=0.15, contrast=0.15, noise=0.15)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row: the name of the result, what kind of thing it is, how it is trained, where its weights ship."""

    target: str
    kind: str
    config: TrainConfig
    tokenizer: str | None = None  # generators: whose tokens it is trained on
    asset: str | None = None


CLASSIFIER = Recipe(
    target="digits-cnn",
    kind="classifier",
    asset="arbench/assets/digits-cnn.safetensors",
    config=TrainConfig(
        steps=2000, batch_size=128, learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.02,
        ema_rate=0.998, augmentation=ROUGH,
    ),
)  # fmt: skip
TOKENIZERS = ("digits-kl", "digits-vq")  # whose recipes stand beside them
CONFIGS = ("digits",)


def digits_recipes() -> Mapping[str, Recipe]:
    """The recipes of the digits by target, in the order in which they need each other: generators come last."""
    return OursFirst(_recipes)


def _recipes(of: Iterable[Method]) -> dict[str, Recipe]:
    recipes = {CLASSIFIER.target: CLASSIFIER}
    for name in TOKENIZERS:
        asset = f"tokenizers/arbench_tokenizers/assets/{name}.safetensors"
        recipes[name] = Recipe(target=name, kind="tokenizer", asset=asset, config=trainable(name).recipe.config)
    for method in of:
        for preset in (preset for preset in method.presets if preset.data == DIGITS):
            config = method.trained_by(preset)
            if config is None:
                continue
            recipes[preset.name] = Recipe(
                target=preset.name,
                kind="generator",
                tokenizer=preset.tokenizer,
                asset=f"{method.package}/assets/{preset.name}.safetensors" if preset.shipped else None,
                config=config,
            )
    return recipes


def get_recipe(target: str) -> Recipe:
    """The digits recipe named `target`; ValueError with the nearest name where there is none."""
    recipes = digits_recipes()
    if target not in recipes:
        raise unknown_name("training target", target, [*recipes, "all"])
    return recipes[target]
