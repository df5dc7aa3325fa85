"""The trimmed samplers of the diffusion head: ancestral sampling but for their start, and well conditioned there."""

import pytest
import torch

from arbench.heads.schedule import Diffusion, kept_timesteps
from arbench.heads.solvers import SOLVERS
from arbench.settings import DISA_START, TRIMMED_START, MaskedDiffusionSampling, disa_steps


@pytest.mark.parametrize(("name", "start"), [("ddpm-trimmed", TRIMMED_START), ("disa", DISA_START)])
@pytest.mark.parametrize("num_steps", [25, 50, 100])
def test_trimmed_sampler_is_ancestral_after_its_start(num_steps, name, start):
    process = Diffusion.cosine(num_steps)
    whole = SOLVERS["ddpm"](process, temperature=1.0)
    trimmed = SOLVERS[name](process, temperature=1.0)
    assert trimmed.visited[0] == start
    kept = whole.visited[whole.visited < start]
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


@pytest.mark.parametrize("num_steps", [8, 46, 64, 256])
def test_disa_takes_the_releases_steps(num_steps):
    settings = MaskedDiffusionSampling(head_steps=50, head_sampler="disa")
    for index in range(num_steps):
        respaced = 5 + int((num_steps - 1 - index) / (num_steps - 1) * (50 - 5))
        own = settings.at(index, num_steps)
        assert own == MaskedDiffusionSampling(head_steps=respaced, head_sampler="disa")
        strided = {min(timestep, 950) for timestep in kept_timesteps(respaced)}
        process = Diffusion.cosine(own.head_steps)
        assert SOLVERS["disa"](process, temperature=1.0).visited.tolist() == sorted(strided, reverse=True)


def test_steps_fall_from_the_first_iteration_to_the_last():
    assert [disa_steps(15, index, 3) for index in range(3)] == [15, 10, 5]
    assert [disa_steps(4, index, 3) for index in range(3)] == [4, 4, 4]
    assert disa_steps(15, 0, 1) == 15
    settings = MaskedDiffusionSampling(head_steps=15)
    assert settings.at(2, 3) is settings
