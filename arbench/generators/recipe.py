"""What decides a training run: one frozen dataclass, and the learning rate it gives at every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from arbench.validation import Count, Limits, Wording, check_fields

# How a cache views an image: `views` times through the augmentation; as it is and mirrored; ten crops at each scale.
VIEW_SETS = ("random", "mirror", "ten-crop")
SCHEDULES = ("constant", "cosine")
MOST_SEEDS = 2**63  # each process and each resumed step adds to the seed that PyTorch is given, which ends at 2**64
DTYPES = ("float32", "bfloat16")  # of the matrix products; weights, average and optimiser are always float32
Above0 = Annotated[float, Limits(above=0)]
WORDING = Wording(line="{name}={value!r}: expected {expected}")
NotNegative = Annotated[float, Limits(least=0)]
NotNegativeInt = Annotated[int, Limits(least=0)]
Share = Annotated[float, Limits(least=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random affine views of an image; every range is symmetric and drawn uniformly. All zero is no augmentation."""

    shift: float = 0.0  # pixels, both directions
    rotation: float = 0.0  # degrees
    scale: float = 0.0  # relative size, 0.1 is 0.9 .. 1.1
    shear: float = 0.0  # horizontal offset a vertical pixel
    contrast: float = 0.0  # relative brightness above black
    noise: float = 0.0  # largest deviation of Gaussian pixel noise, on the [-1, 1] range
    flip: bool = False  # mirror left and right half of the time

    def __bool__(self) -> bool:
        return any(bool(value) for value in dataclasses.asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimiser, schedule, data and bookkeeping of one run, as long as `steps` or `epochs` say.

    Epochs become steps where the number of images is known (`for_images`). Raises ValueError where a number cannot be
    meant (negative, zero, or out of its range).
    """

    steps: NotNegativeInt = 0
    epochs: NotNegative = 0.0
    images: NotNegativeInt = 0  # of an epoch, which `for_images` tells
    batch_size: Count
    learning_rate: Above0
    warmup_steps: NotNegativeInt = 100
    warmup_epochs: NotNegative = 0.0  # in place of `warmup_steps`, by fractions of an epoch
    schedule: Annotated[str, Limits(choices=SCHEDULES, called="training schedule")] = "cosine"
    final_rate: float = 0.01  # cosine: last learning rate as a share of the peak
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: NotNegative = 0.0
    undecayed: tuple[str, ...] = ()  # how the names of tensors begin that do not decay, beside all of one dimension
    clip_norm: Annotated[float, Limits(above=0, most=math.inf)] = 1.0
    ema_rate: Share = 0.999  # 0: no average, the weights as they are
    ema_warmup: bool = True  # `EMA.rate_at`
    dtype: Annotated[str, Limits(choices=DTYPES, called="training dtype")] = "float32"
    seed: Annotated[int, Limits(least=0, below=MOST_SEEDS, meaning="0 to 2**63 - 1")] = 0
    checkpoint_every: Count = 500
    log_every: Count = 50
    dropout: Share = 0.0  # of a generator, at the places that its model has for it
    view_set: Annotated[str, Limits(choices=VIEW_SETS, called="training view_set")] = "random"
    cached: bool = (
        True  # a generator's tokens are made beforehand, rather than in each step, in another view each epoch
    )
    views: Count = 1  # augmented views of an image in the token cache of a generator, where `view_set` is "random"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    crop_share: Annotated[float, Limits(least=0, most=1)] = 0.0  # tokenizers: `training.crops`; 0: centre crops
    sinusoidal_positions: bool = False  # masked generators: `start_positions`
    micro_batches: NotNegativeInt = 0  # parts of a step's batch, over all processes; 0: one a process
    zero_output: bool = False  # a generator's output layer starts at zero
    compiled: bool = False  # on CUDA: the model's blocks, by torch.compile
    read_out_weight: NotNegative = 0.0  # diffusion heads: `DiffusionHead.add_read_out`; 0 is the papers' loss

    def __post_init__(self) -> None:
        check_fields(TrainConfig, vars(self), wording=WORDING)
        if not self.steps and not self.epochs:
            raise ValueError(f"steps={self.steps}: expected a number above 0, or one of epochs")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up, then constant or half a cosine down to `final_rate`."""
        if step < self.warmup:
            # By epochs the rate is that of the images seen so far, none at first; by steps that of those of the step.
            return self.learning_rate * (step if self.warmup_epochs else step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.learning_rate * share

    @property
    def warmup(self) -> float:
        """Steps of the warm-up, perhaps no whole number where it is told in epochs."""
        if not self.warmup_epochs:
            return self.warmup_steps
        assert self.images, "`for_images` comes first"
        return self.warmup_epochs * self.images / self.batch_size

    def for_images(self, images: int, say: Callable[[str], None] = lambda line: None) -> TrainConfig:
        """The same on so many images an epoch: `steps` is told, and a warm-up of over half the run shrinks to a tenth.

        A run whose length was told in steps keeps it. `say` is told where the warm-up shrinks.
        """
        steps = max(1, round(self.epochs * images / self.batch_size)) if self.epochs else self.steps
        config = dataclasses.replace(self, steps=steps, images=images)
        if 2 * config.warmup > steps:
            say(
                f"warm-up {config.warmup:,.0f} -> {steps // 10:,} steps: it would be over half of the run's "
                f"{steps:,}, so it is a tenth of them"
            )
            config = dataclasses.replace(config, warmup_epochs=0.0, warmup_steps=steps // 10)
        return config

    def as_dict(self) -> dict[str, Any]:
        """Plain containers only: what a checkpoint and a weights file hold. Of `OPTIONAL`, what is not asked for is
        left out."""
        values = dataclasses.asdict(self)
        for name in OPTIONAL:
            if values[name] == DEFAULTS[name]:
                del values[name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


OPTIONAL = (
    *("epochs", "images", "warmup_epochs", "undecayed", "ema_warmup", "dropout", "view_set", "zero_output"),
    *("crop_share", "micro_batches", "compiled", "cached"),
)
DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def lengthened(now: TrainConfig, then: dict[str, Any], step: int, say: Callable[[str], None]) -> TrainConfig:
    """The settings with which a checkpoint of `then`, at `step`, goes on where `now` asks for more steps.

    The warm-up stays what it was. A constant rate makes a lengthened run what a longer one would have been; a cosine is
    laid anew over all steps, so that the rate rises where the run goes on, which `say` is told.
    """
    if now.steps <= then.get("steps", now.steps):
        return now
    warm_up = {"warmup_steps": then["warmup_steps"], "warmup_epochs": then.get("warmup_epochs", 0.0)}
    config = dataclasses.replace(now, **warm_up)
    if config.schedule == "cosine":
        before = dataclasses.replace(config, steps=then["steps"]).learning_rate_at(step)
        say(
            f"steps {then['steps']} -> {now.steps}: the cosine is laid anew over all steps, so the learning rate goes "
            f"from {before:.3g} to {config.learning_rate_at(step):.3g} at step {step}"
        )
    return config


def check_same_run(now: TrainConfig, then: dict[str, Any]) -> None:
    """Raise ValueError where a run is resumed with other settings than it was started with; more steps are allowed."""
    asked = now.as_dict()
    for name in (*asked, *(name for name in OPTIONAL if name in then and name not in asked)):
        value, held = asked.get(name, DEFAULTS[name]), then.get(name, DEFAULTS[name])
        if name in ("checkpoint_every", "log_every", "compiled") or value == held:
            continue
        if name in ("steps", "epochs") and asked["steps"] > then["steps"]:
            continue
        raise ValueError(f"cannot resume with {name}={value}: the checkpoint was trained with {held}")
