"""From predicted noise to the next x: the samplers of the diffusion head.

`ddpm` is ancestral sampling with the learned variance (arXiv:2102.09672), the one the MAR paper uses; `ddpm-trimmed` is
the same from a little less noise, for networks that were trained briefly; `ddim` is the deterministic sampler of
arXiv:2010.02502 (eta = 0); `disa` is ancestral with fewer and fewer steps (arXiv:2505.20297).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from arbench.heads.schedule import Diffusion
from arbench.protocols import Noise
from arbench.settings import DISA_START, TRIMMED_START

Predicted = TypeVar("Predicted")
Row = Sequence[float] | Sequence[Tensor]  # numbers, or tensors of one number each


class Solver(Protocol):
    """Steps are counted from 0 in the order in which they are taken, from the noisiest timestep down."""

    visited: np.ndarray
    count: int  # of the steps
    coefficients: Sequence[Row]  # of every step

    def __init__(self, process: Diffusion, *, temperature: float) -> None: ...

    start_scale: float  # of the noise that it starts from

    def needs_noise(self, step: int) -> bool:
        """Whether `step` adds noise; where one does not, none after it does."""

    def step(self, row: Row, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor:
        """The next x; `row` is the step's of `coefficients`."""


class Ancestral:
    """DDPM with variance interpolated in log space between its two bounds; the noise is scaled by `temperature`."""

    start_scale = 1.0

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        self.visited = process.timesteps[::-1].copy()
        self.count = len(self.visited)
        self.temperature = temperature
        keep_x = np.sqrt(1 / process.alpha_bar)
        keep_eps = np.sqrt(1 / process.alpha_bar - 1)
        # x0 = keep_x x - keep_eps eps, folded into the posterior mean: one multiply and one subtraction a step.
        from_x = process.mean_from_start * keep_x + process.mean_from_noisy
        # Halves are exact: half the logarithm of the variance is that of the deviation, at no operation more.
        low, high = process.posterior_log_variance, process.log_betas
        table = np.stack([from_x, process.mean_from_start * keep_eps, (high - low) / 4, low / 2], axis=1)
        self.coefficients = table[::-1].tolist()

    def needs_noise(self, step: int) -> bool:
        return step < self.count - 1

    def step(self, row: Row, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor:
        """One shape (..., C) each; `variance` in [-1, 1] picks a point between the bounds."""
        from_x, from_eps, slope, offset = row
        mean = from_x * x - from_eps * eps
        if noise is None:
            return mean
        added = torch.exp((variance + 1) * slope + offset) * noise
        return mean + (added if self.temperature == 1 else added * self.temperature)


class TrimmedAncestral(Ancestral):
    """DDPM that starts at timestep `TRIMMED_START` of 1000.

    At the last timestep the cosine schedule leaves 5e-5 of the signal: the step away from it multiplies an error of the
    predicted noise by 300 (100 steps) to 1300 (25 steps), which only a network trained for very long survives. At 980
    it is 3 percent, the error at most doubles (25 steps or more), and starting from pure noise there goes unnoticed.
    """

    start = TRIMMED_START

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        super().__init__(process.until(self.start), temperature=temperature)


class DiSA(TrimmedAncestral):
    """DDPM from timestep `DISA_START` on, for which `arbench.settings.disa_steps` says how many steps it takes."""

    start = DISA_START


class Deterministic:
    """DDIM with eta = 0: no noise after the start, which `temperature` scales."""

    def __init__(self, process: Diffusion, *, temperature: float) -> None:
        self.visited = process.timesteps[::-1].copy()
        self.count = len(self.visited)
        self.start_scale = temperature
        now, following = process.alpha_bar, process.alpha_bar_before
        table = np.stack([(1 - now) ** 0.5, now**0.5, following**0.5, (1 - following) ** 0.5], axis=1)
        self.coefficients = table[::-1].tolist()

    def needs_noise(self, step: int) -> bool:
        return False

    def step(self, row: Row, x: Tensor, eps: Tensor, variance: Tensor, noise: Tensor | None) -> Tensor:
        noise_now, signal_now, signal_next, noise_next = row
        start = (x - noise_now * eps) / signal_now
        return signal_next * start + noise_next * eps


SOLVERS: dict[str, type[Solver]] = {
    "ddpm": Ancestral,
    "ddpm-trimmed": TrimmedAncestral,
    "ddim": Deterministic,
    "disa": DiSA,
}


def run_solver(
    solver: Solver,
    noise: Noise,
    positions: Tensor,
    channels: int,
    network_dtype: torch.dtype,
    predict: Callable[[Tensor, int], Predicted],
    advance: Callable[[Tensor, Predicted, Tensor | None, int], Tensor] | None = None,
) -> Tensor:
    """Draw tokens for `positions` (B, n): (B, n, channels).

    `predict` takes x (B, n, channels) and the step and returns the noise in it and its variance channels; `advance`
    makes the next x of x, what `predict` returned (which may then be anything) and the step's noise.
    """
    if advance is None:

        def advance(x: Tensor, predicted: Any, added: Tensor | None, step: int) -> Tensor:
            return solver.step(solver.coefficients[step], x, predicted[0], predicted[1], added)

    steps = range(solver.count)
    rows = noise_rows(noise, 1 + sum(solver.needs_noise(step) for step in steps), positions, channels)
    start = next(rows)
    # x itself stays in float32 (or float64) even where the network runs in half precision.
    x = start.to(torch.promote_types(start.dtype, network_dtype))
    x = x if solver.start_scale == 1 else x * solver.start_scale
    for step in steps:
        predicted = predict(x, step)
        added = next(rows).to(x.dtype) if solver.needs_noise(step) else None
        x = advance(x, predicted, added, step)
    return x


def noise_rows(noise: Noise, count: int, positions: Tensor, channels: int) -> Iterator[Tensor]:
    """`noise.gaussian` of the steps 0 to `count` - 1 in turn, (B, n, channels) each; drawn together where it can."""
    together = getattr(noise, "gaussians", None)
    if together is not None:
        return together(count, positions, channels)
    return (noise.gaussian(step, positions, channels) for step in range(count))
