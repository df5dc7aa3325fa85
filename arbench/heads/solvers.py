"""From predicted noise to the next x: the samplers of the diffusion head.

`ddpm` is ancestral sampling with the learned variance (arXiv:2102.09672), the one the MAR paper uses; `ddpm-trimmed` is
the same from a little less noise, for networks that were trained briefly; `ddim` is the deterministic sampler of
arXiv:2010.02502 (eta = 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from arbench.heads.schedule import Diffusion
from arbench.protocols import Noise
from arbench.settings import TRIMMED_START


class Solver(Protocol):
    """Steps are counted from 0 in the order in which they are taken, from the noisiest timestep down."""

    visited: np.ndarray
    count: int  # of the steps

    def __init__(self, process: Diffusion, *, temperature: float) -> None: ...

    def needs_noise(self, step: int) -> bool:
        """Whether `step` adds noise; where one does not, none after it does."""

    def step(self, step: int, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor: ...


class Ancestral:
    """DDPM with variance interpolated in log space between its two bounds; the noise is scaled by `temperature`."""

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        self.visited = process.timesteps[::-1].copy()
        self.count = len(self.visited)
        self.temperature = temperature
        keep_x = np.sqrt(1 / process.alpha_bar)
        keep_eps = np.sqrt(1 / process.alpha_bar - 1)
        # x0 = keep_x x - keep_eps eps, folded into the posterior mean: one multiply and one subtraction a step.
        self._from_x = (process.mean_from_start * keep_x + process.mean_from_noisy)[::-1].tolist()
        self._from_eps = (process.mean_from_start * keep_eps)[::-1].tolist()
        self._log_low = process.posterior_log_variance[::-1].tolist()
        self._log_high = process.log_betas[::-1].tolist()

    def needs_noise(self, step: int) -> bool:
        return step < self.count - 1

    def step(self, step: int, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor:
        """One shape (..., C) each; `variance` in [-1, 1] picks a point between the bounds."""
        mean = self._from_x[step] * x - self._from_eps[step] * eps
        if noise is None:
            return mean
        low, high = self._log_low[step], self._log_high[step]
        # Halves are exact: half the logarithm of the variance is that of the deviation, at no operation more.
        added = torch.exp((variance + 1) * ((high - low) / 4) + low / 2) * noise
        return mean + (added if self.temperature == 1 else added * self.temperature)


class TrimmedAncestral(Ancestral):
    """DDPM that starts at timestep `TRIMMED_START` of 1000.

    At the last timestep the cosine schedule leaves 5e-5 of the signal: the step away from it multiplies an error of the
    predicted noise by 300 (100 steps) to 1300 (25 steps), which only a network trained for very long survives. At 980
    it is 3 percent, the error at most doubles (25 steps or more), and starting from pure noise there goes unnoticed.
    """

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        super().__init__(process.until(TRIMMED_START), temperature=temperature)


class Deterministic:
    """DDIM with eta = 0: no noise after the start, which `temperature` scales."""

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        self.visited = process.timesteps[::-1].copy()
        self.count = len(self.visited)
        self._temperature = temperature
        self._now, self._next = process.alpha_bar[::-1].tolist(), process.alpha_bar_before[::-1].tolist()

    def needs_noise(self, step: int) -> bool:
        return False

    def step(self, step: int, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor:
        if step == 0:
            x = x * self._temperature
        now, following = self._now[step], self._next[step]
        start = (x - (1 - now) ** 0.5 * eps) / now**0.5
        return following**0.5 * start + (1 - following) ** 0.5 * eps


SOLVERS: dict[str, type[Solver]] = {"ddpm": Ancestral, "ddpm-trimmed": TrimmedAncestral, "ddim": Deterministic}


def run_solver(
    solver: Solver,
    noise: Noise,
    positions: Tensor,
    channels: int,
    network_dtype: torch.dtype,
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor]],
) -> Tensor:
    """Draw tokens for `positions` (B, n): (B, n, channels).

    `predict` takes x (B, n, channels) and the step and returns the noise in it and its variance channels.
    """
    steps = range(solver.count)
    rows = noise_rows(noise, 1 + sum(solver.needs_noise(step) for step in steps), positions, channels)
    start = next(rows)
    # x itself stays in float32 (or float64) even where the network runs in half precision.
    x = start.to(torch.promote_types(start.dtype, network_dtype))
    for step in steps:
        eps, variance = predict(x, step)
        added = next(rows).to(x.dtype) if solver.needs_noise(step) else None
        x = solver.step(step, x, eps, variance, added)
    return x


def noise_rows(noise: Noise, count: int, positions: Tensor, channels: int) -> Iterator[Tensor]:
    """`noise.gaussian` of the steps 0 to `count` - 1 in turn, (B, n, channels) each; drawn together where it can."""
    together = getattr(noise, "gaussians", None)
    if together is not None:
        return together(count, positions, channels)
    return (noise.gaussian(step, positions, channels) for step in range(count))
