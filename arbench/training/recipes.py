"""The recipes: what is trained on what, with which settings, as a table.

The digits rows made the weights that ship, on two CPU cores, each by one command:

    arbench train --config digits --target NAME        (and --target all: its rows in this order)

and each result was copied from `runs/train/NAME/NAME.safetensors` to the path in its `asset` column.
"""

from __future__ import annotations

from dataclasses import dataclass

from arbench.registry import unknown_name
from arbench.training.config import Augmentation, TrainConfig

KINDS = ("classifier", "tokenizer", "generator")

# Rough enough that the classifier reads a generated digit that is drawn a little differently from all real ones.
ROUGH = Augmentation(shift=2.5, rotation=12, scale=0.12, shear=0.15, contrast=0.15, noise=0.15)
# What a tokenizer must be able to reconstruct: a little more than generators are trained on.
MIXED = Augmentation(shift=1.5, rotation=8, scale=0.08, shear=0.08, contrast=0.05)
# Mild enough that the views of a digit have the distribution of digits.
MILD = Augmentation(shift=0.7, rotation=4, scale=0.03, shear=0.03)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row: the name of the result, what kind of thing it is, how it is trained, where its weights ship."""

    target: str
    kind: str
    config: TrainConfig
    tokenizer: str | None = None  # generators: whose tokens it is trained on
    asset: str | None = None


DIGITS: dict[str, Recipe] = {
    recipe.target: recipe
    for recipe in (
        Recipe(
            target="digits-cnn",
            kind="classifier",
            asset="arbench/assets/digits-cnn.safetensors",
            config=TrainConfig(
                steps=2000, batch_size=128, learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.02,
                ema_rate=0.998, augmentation=ROUGH,
            ),
        ),
        Recipe(
            target="digits-kl",
            kind="tokenizer",
            asset="tokenizers/arbench_tokenizers/assets/digits-kl.safetensors",
            config=TrainConfig(
                steps=3000, batch_size=32, learning_rate=2e-3, betas=(0.9, 0.99), ema_rate=0.998, augmentation=MIXED,
            ),
        ),
        Recipe(
            target="digits-vq",
            kind="tokenizer",
            asset="tokenizers/arbench_tokenizers/assets/digits-vq.safetensors",
            config=TrainConfig(
                steps=3000, batch_size=32, learning_rate=2e-3, betas=(0.9, 0.99), ema_rate=0.998, augmentation=MIXED,
            ),
        ),
        Recipe(
            target="ar-digits",
            kind="generator",
            tokenizer="digits-vq",
            asset="arbench/assets/ar-digits.safetensors",
            config=TrainConfig(
                steps=3000, batch_size=64, learning_rate=1e-3, weight_decay=0.05, ema_rate=0.998, views=32,
                augmentation=MILD,
            ),
        ),
        Recipe(
            target="par-digits",
            kind="generator",
            tokenizer="digits-vq",
            asset="arbench/assets/par-digits.safetensors",
            config=TrainConfig(
                steps=3000, batch_size=64, learning_rate=1e-3, weight_decay=0.05, ema_rate=0.998, views=32,
                augmentation=MILD,
            ),
        ),
        Recipe(
            target="mar-digits",
            kind="generator",
            tokenizer="digits-kl",
            asset="arbench/assets/mar-digits.safetensors",
            config=TrainConfig(
                steps=6000, batch_size=32, learning_rate=1e-3, weight_decay=0.02, clip_norm=3.0, ema_rate=0.999,
                views=32, augmentation=MILD, sinusoidal_positions=True, read_out_weight=1.0,
            ),
        ),
        Recipe(
            target="dit-digits",
            kind="generator",
            tokenizer="digits-kl",
            asset="arbench/assets/dit-digits.safetensors",
            config=TrainConfig(
                steps=6000, batch_size=32, learning_rate=1e-3, ema_rate=0.999, views=32,
                augmentation=MILD,
            ),
        ),
    )
}  # fmt: skip

# Recipes of the papers for one's own data, by method; steps are those of ImageNet.
# MAR (arXiv:2406.11838, appendix): 400 epochs, batch 2048, rate 8e-4 constant after 100 epochs, decay 0.02, EMA 0.9999,
# flips. AR and PAR (arXiv:2406.06525, section 3; arXiv:2412.15119, section 4): 300 epochs, rate 1e-4 a batch of 256,
# decay 0.05. DiT (arXiv:2212.09748, section 4): 400k steps, batch 256, constant rate 1e-4, no decay, EMA 0.9999, flips.
METHODS: dict[str, TrainConfig] = {
    "ar": TrainConfig(
        steps=1_500_000, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", weight_decay=0.05,
        ema_rate=0.9999, views=10, augmentation=Augmentation(flip=True), checkpoint_every=5000,
    ),
    "par": TrainConfig(
        steps=1_500_000, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", weight_decay=0.05,
        ema_rate=0.9999, views=10, augmentation=Augmentation(flip=True), checkpoint_every=5000,
    ),
    "mar": TrainConfig(
        steps=250_000, batch_size=2048, learning_rate=8e-4, warmup_steps=62_500, schedule="constant",
        weight_decay=0.02, clip_norm=3.0, ema_rate=0.9999, views=2, augmentation=Augmentation(flip=True),
        checkpoint_every=5000,
    ),
    "dit": TrainConfig(
        steps=400_000, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", ema_rate=0.9999,
        views=2, augmentation=Augmentation(flip=True), checkpoint_every=5000,
    ),
}  # fmt: skip
CONFIGS = ("digits",)


def get_recipe(target: str) -> Recipe:
    """The digits recipe named `target`; ValueError with the nearest name where there is none."""
    if target not in DIGITS:
        raise unknown_name("training target", target, [*DIGITS, "all"])
    return DIGITS[target]
