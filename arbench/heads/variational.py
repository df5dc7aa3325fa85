"""The Diffusion Loss: squared error on the noise plus the variational bound that trains the variance alone.

Nichol & Dhariwal (arXiv:2102.09672), section 3.1, hybrid objective; the bound is in bits, the predicted mean detached.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from arbench.heads.schedule import Diffusion
from arbench.machine.transfer import constant

LEVEL_HALF_WIDTH = 1 / 255  # half a step of an 8-bit level on [-1, 1]: the bin of the discrete likelihood at t = 0
EDGE = 0.999  # beyond it the outer bins reach to infinity
FLOOR = 1e-12


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence in nats between diagonal normals, elementwise."""
    spread = torch.exp(log_variance - other_log_variance)
    distance = (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance + spread + distance - 1)


def normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the standard normal's distribution function that the releases use."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def binned_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability in nats of the 8-bit bin around `x` under a normal, elementwise."""
    precision, centred = torch.exp(-log_deviation), x - mean
    above = normal_cdf(precision * (centred + LEVEL_HALF_WIDTH))
    below = normal_cdf(precision * (centred - LEVEL_HALF_WIDTH))
    mass = torch.where(x < -EDGE, above, torch.where(x > EDGE, 1 - below, above - below))
    return mass.clamp(min=FLOOR).log()


def loss_tables(process: Diffusion) -> Tensor:
    """What the loss asks of every timestep, (8, S) float64: shares of signal and noise, log-variances, x0, the mean."""
    alpha_bar = process.alpha_bar
    rows = (
        *(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), process.posterior_log_variance, process.log_betas),
        *(np.sqrt(1 / alpha_bar), np.sqrt(1 / alpha_bar - 1), process.mean_from_start, process.mean_from_noisy),
    )
    return torch.from_numpy(np.stack(rows))


def noise_and_variance_loss(
    net: Callable[[Tensor, Tensor, Tensor], Tensor],
    process: Diffusion,
    start: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    condition: Tensor,
) -> Tensor:
    """Diffusion Loss of each row: (M, C) start, (M,) timesteps, (M, C) noise, (M, D) condition -> (M,)."""
    tables = constant(loss_tables, process, device=start.device, dtype=start.dtype)
    signal, spread, low, high, undone, unspread, from_start, from_noisy = tables[:, timesteps].unsqueeze(-1)
    noisy = signal * start + spread * noise
    eps, variance = net(noisy, timesteps, condition).chunk(2, dim=-1)
    log_variance = low + (variance + 1) / 2 * (high - low)
    predicted_start = undone * noisy - unspread * eps.detach()
    mean = from_start * predicted_start + from_noisy * noisy
    true_mean = from_start * start + from_noisy * noisy
    divergence = normal_kl(true_mean, low, mean, log_variance).mean(-1)
    likelihood = -binned_log_likelihood(start, mean, 0.5 * log_variance).mean(-1)
    bound = torch.where(timesteps == 0, likelihood, divergence) / math.log(2)
    return ((noise - eps) ** 2).mean(-1) + bound
