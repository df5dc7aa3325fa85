"""The diffusion process of MAR's head: cosine noise schedule, kept timesteps, and the solvers' coefficients.

Notation of Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arbench.settings import TRAIN_STEPS

COSINE_OFFSET = 0.008  # s of arXiv:2102.09672, eq. 17
MAX_BETA = 0.999  # arXiv:2102.09672, section 3.2


def cosine_alpha_bar(time: float) -> float:
    """The share of signal left at `time` in [0, 1], not normalised (arXiv:2102.09672, eq. 17)."""
    return math.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2


def cosine_betas(num_steps: int = TRAIN_STEPS) -> np.ndarray:
    """Noise added by each of `num_steps` steps: (T,) float64."""
    levels = [cosine_alpha_bar(step / num_steps) for step in range(num_steps + 1)]
    return np.array([min(1 - after / before, MAX_BETA) for before, after in itertools.pairwise(levels)])


def kept_timesteps(num_steps: int, total: int = TRAIN_STEPS) -> list[int]:
    """`num_steps` evenly strided timesteps of `total`, both ends included, ascending.

    Raises ValueError where `num_steps` is not between 1 and `total`.
    """
    if not 1 <= num_steps <= total:
        raise ValueError(f"head_steps {num_steps}: expected 1 to {total}")
    if num_steps == 1:
        return [0]
    stride = (total - 1) / (num_steps - 1)
    steps, position = [], 0.0
    for _ in range(num_steps):
        # Accumulated, not multiplied: the rounding of the released samplers depends on it.
        steps.append(round(position))
        position += stride
    return steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Diffusion:
    """A diffusion process over `timesteps`, a subset of the training steps; all arrays (S,) float64, ascending time."""

    timesteps: np.ndarray
    alpha_bar: np.ndarray

    @classmethod
    def cosine(cls, num_steps: int = TRAIN_STEPS) -> Diffusion:
        """The cosine process of 1000 training steps, respaced to `num_steps`."""
        timesteps = np.array(kept_timesteps(num_steps))
        return cls(timesteps=timesteps, alpha_bar=np.cumprod(1 - cosine_betas())[timesteps])

    def until(self, last: int) -> Diffusion:
        """The same cosine process with the timesteps past `last` moved down to it."""
        timesteps = np.unique(np.minimum(self.timesteps, last))
        return Diffusion(timesteps=timesteps, alpha_bar=np.cumprod(1 - cosine_betas())[timesteps])

    @cached_property
    def alpha_bar_before(self) -> np.ndarray:
        return np.append(1.0, self.alpha_bar[:-1])

    @cached_property
    def betas(self) -> np.ndarray:
        return 1 - self.alpha_bar / self.alpha_bar_before

    @cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """log of the posterior variance; the first, which is zero, takes the second's value (as released)."""
        variance = self.betas * (1 - self.alpha_bar_before) / (1 - self.alpha_bar)
        if len(variance) > 1:
            variance[0] = variance[1]
        else:
            variance = self.betas
        return np.log(variance)

    @cached_property
    def log_betas(self) -> np.ndarray:
        return np.log(self.betas)

    @cached_property
    def mean_from_start(self) -> np.ndarray:
        """Weight of x0 in the posterior mean (arXiv:2006.11239, eq. 7)."""
        return self.betas * np.sqrt(self.alpha_bar_before) / (1 - self.alpha_bar)

    @cached_property
    def mean_from_noisy(self) -> np.ndarray:
        """Weight of x_t in the posterior mean (arXiv:2006.11239, eq. 7)."""
        return (1 - self.alpha_bar_before) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar)
