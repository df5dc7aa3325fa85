"""What decides a training run: one frozen dataclass, and the learning rate it gives at every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arbench.registry import unknown_name

SCHEDULES = ("constant", "cosine")
MOST_SEEDS = 2**63  # each process and each resumed step adds to the seed that PyTorch is given, which ends at 2**64
DTYPES = ("float32", "bfloat16")  # of the matrix products; weights, average and optimiser are always float32


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
    """Optimiser, schedule, data and bookkeeping of one run.

    Raises ValueError where a number cannot be meant (negative, zero, or out of its range).
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    schedule: str = "cosine"
    final_rate: float = 0.01  # cosine: last learning rate as a share of the peak
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_rate: float = 0.999
    dtype: str = "float32"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50
    views: int = 1  # augmented views of an image in the token cache of a generator
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    sinusoidal_positions: bool = False  # masked generators: `start_positions`
    read_out_weight: float = 0.0  # diffusion heads: `DiffusionHead.add_read_out`; 0 is the papers' loss

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "clip_norm", "checkpoint_every", "log_every", "views"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number above 0")
        for name in ("warmup_steps", "weight_decay", "seed", "read_out_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not self.seed < MOST_SEEDS:
            raise ValueError(f"seed={self.seed}: expected 0 to 2**63 - 1")
        if not 0 <= self.ema_rate < 1:
            raise ValueError(f"ema_rate={self.ema_rate}: expected 0 <= rate < 1, e.g. 0.999")
        for name, choices in (("schedule", SCHEDULES), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise unknown_name(f"training {name}", getattr(self, name), choices)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up, then constant or half a cosine down to `final_rate`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        share = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.learning_rate * share

    def as_dict(self) -> dict[str, Any]:
        """Plain containers only: what a checkpoint and a cache name hold."""
        values = dataclasses.asdict(self)
        values["betas"] = list(self.betas)
        return values


def lengthened(now: TrainConfig, then: dict[str, Any], step: int, say: Callable[[str], None]) -> TrainConfig:
    """The settings with which a checkpoint of `then`, at `step`, goes on where `now` asks for more steps.

    The warm-up stays what it was. A constant rate makes a lengthened run what a longer one would have been; a cosine is
    laid anew over all steps, so that the rate rises where the run goes on, which `say` is told.
    """
    if now.steps <= then.get("steps", now.steps):
        return now
    config = dataclasses.replace(now, warmup_steps=then["warmup_steps"])
    if config.schedule == "cosine":
        before = dataclasses.replace(config, steps=then["steps"]).learning_rate_at(step)
        say(
            f"steps {then['steps']} -> {now.steps}: the cosine is laid anew over all steps, so the learning rate goes "
            f"from {before:.3g} to {config.learning_rate_at(step):.3g} at step {step}"
        )
    return config


def check_same_run(now: TrainConfig, then: dict[str, Any]) -> None:
    """Raise ValueError where a run is resumed with other settings than it was started with; more steps are allowed."""
    for name, value in now.as_dict().items():
        if name in ("checkpoint_every", "log_every") or value == then.get(name):
            continue
        if name == "steps" and value > then["steps"]:
            continue
        raise ValueError(f"cannot resume with {name}={value}: the checkpoint was trained with {then.get(name)}")
