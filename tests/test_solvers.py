"""The trimmed sampler of the diffusion head: ancestral sampling but for its start, and well conditioned there."""

import pytest
import torch

from arbench.heads.schedule import Diffusion
from arbench.heads.solvers import SOLVERS, TRIMMED_START


@pytest.mark.parametrize("num_steps", [25, 50, 100])
def test_trimmed_sampler_is_ancestral_after_its_start(num_steps):
    process = Diffusion.cosine(num_steps)
    whole = SOLVERS["ddpm"](process, temperature=1.0)
    trimmed = SOLVERS["ddpm-trimmed"](process, temperature=1.0)
    assert trimmed.visited[0] == TRIMMED_START
    kept = whole.visited[whole.visited < TRIMMED_START]
    assert trimmed.visited[1:].tolist() == kept.tolist()
    rng = torch.Generator().manual_seed(0)
    x, eps, variance, noise = torch.randn(4, 5, 3, generator=rng)
    skipped = len(whole.visited) - len(kept)
    for step in range(1, len(trimmed.visited)):
        added = noise if trimmed.needs_noise(step) else None
        ours = trimmed.step(trimmed.coefficients[step], x, eps, variance, added)
        assert torch.equal(ours, whole.step(whole.coefficients[step + skipped - 1], x, eps, variance, added))


@pytest.mark.parametrize("num_steps", [25, 100])
def test_an_error_in_the_noise_hardly_grows_at_the_start(num_steps):
    x, variance = torch.zeros(1, 1), torch.zeros(1, 1)
    noise = torch.zeros(1, 1)
    growth = {}
    for name in ("ddpm", "ddpm-trimmed"):
        solver = SOLVERS[name](Diffusion.cosine(num_steps), temperature=1.0)
        growth[name] = abs(solver.step(solver.coefficients[0], x, torch.ones(1, 1), variance, noise).item())
    assert growth["ddpm-trimmed"] < 2
    assert growth["ddpm"] > 100
