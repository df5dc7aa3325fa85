"""Heads: filters, draws and solvers against recorded values, closed forms and a plain loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Parity, relative_error

from arbench.heads import diffusion
from arbench.heads.categorical import CategoricalHead, inverse_transform, keep_top_k, keep_top_p, probabilities
from arbench.heads.diffusion import DiffusionHead
from arbench.heads.schedule import Diffusion
from arbench.heads.solvers import Ancestral, Deterministic
from arbench.sampling.noise import FixedNoise, ImageNoise

FILTERS = {
    "k20": {"top_k": 20},
    "p08": {"top_p": 0.8},
    "k30p09t07": {"top_k": 30, "top_p": 0.9, "temperature": 0.7},
}
POSITIONS = torch.arange(4).expand(2, -1)


def random_head(seed: int = 0, dtype: torch.dtype = torch.float32) -> DiffusionHead:
    torch.manual_seed(seed)
    head = DiffusionHead(channels=3, condition_width=8, width=16, depth=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head.to(dtype)


def settings(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"head_steps": 5, "head_sampler": "ddpm", "temperature": 1.0} | changes)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("folder", ["ar", "par4", "par16"])
def test_filtered_probabilities_equal_the_originals(folder: str, name: str) -> None:
    expected = Parity(folder).expected
    found = probabilities(expected["filter.logits"], **FILTERS[name])
    assert relative_error(found, expected[f"filter.{name}.probs"]) < 1e-5  # one softmax in float32
    assert torch.equal(found > 0, expected[f"filter.{name}.probs"] > 0)


def test_filters_leave_their_input_alone() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    assert int(keep_top_k(logits, 3).isfinite().sum()) == 12
    assert keep_top_p(logits, 1e-9).isfinite().sum(-1).tolist() == [1] * 4
    assert keep_top_k(logits, 0) is logits
    assert keep_top_p(logits, 1.0) is logits
    assert torch.equal(logits, before)


def test_draws_follow_the_probabilities() -> None:
    probability = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    codes = inverse_transform(probability.expand(10_000, -1), uniform)
    assert torch.bincount(codes, minlength=4).tolist() == [5000, 0, 3000, 2000]


def test_greedy_guided_and_plain_draws() -> None:
    torch.manual_seed(0)
    head = CategoricalHead(8, 11)
    z, other = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    noise = ImageNoise(0, torch.arange(2))
    greedy = SimpleNamespace(temperature=0.0, top_k=0, top_p=1.0)
    assert torch.equal(head.draw(z, None, 1.0, greedy, noise, POSITIONS), head.logits(z).argmax(-1))
    guided = head.logits(other) + 2 * (head.logits(z) - head.logits(other))
    assert torch.equal(head.draw(z, other, 2.0, greedy, noise, POSITIONS), guided.argmax(-1))


def test_a_temperature_too_small_for_float32_draws_the_likeliest_code() -> None:
    logits = torch.tensor([[-7.0, 3.0, 9.0, -1.0]])
    for temperature in (1e-9, 1e-38, 1e-45):
        assert probabilities(logits, temperature=temperature).tolist() == [[0, 0, 1, 0]]


def test_half_precision_logits_are_float32() -> None:
    head = CategoricalHead(8, 11).bfloat16()
    assert head.logits(torch.zeros(1, 8, dtype=torch.bfloat16)).dtype == torch.float32
    assert head.double().logits(torch.zeros(1, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_fast_draw_equals_the_plain_loop(guided: bool, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hoisted embeddings, one table of modulations and folded coefficients against the textbook, in float64."""
    head = random_head(dtype=torch.float64)
    rng = torch.Generator().manual_seed(2)
    z, other = (torch.randn(2, 4, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    tape = torch.randn(6, 2, 4, 3, generator=rng, dtype=torch.float64)
    monkeypatch.setitem(diffusion.MODULATION_BUDGET, "cpu", 2 * 128 * 16)  # two steps of the table at a time
    with torch.no_grad():
        found = head.draw(
            z, other if guided else None, 2.5, settings(temperature=temperature), FixedNoise(gaussian=tape), POSITIONS
        )
        expected = plain_draw(head, z, other if guided else None, 2.5, temperature, tape)
    assert found.dtype == torch.float64
    assert relative_error(found, expected) < 1e-9


def plain_draw(
    head: DiffusionHead,
    z: torch.Tensor,
    other: torch.Tensor | None,
    scale: float,
    temperature: float,
    tape: torch.Tensor,
) -> torch.Tensor:
    """Ancestral sampling as arXiv:2102.09672 writes it, one call of the network a step and condition."""
    process = Diffusion.cosine(5)
    x = tape[0].flatten(0, 1)
    for count, index in enumerate(reversed(range(5))):
        t = torch.full((len(x),), int(process.timesteps[index]))
        eps, v = head.net(x, t, z.flatten(0, 1)).chunk(2, dim=-1)
        if other is not None:
            without = head.net(x, t, other.flatten(0, 1)).chunk(2, dim=-1)[0]
            eps = without + scale * (eps - without)
        alpha_bar = process.alpha_bar[index]
        start = x / np.sqrt(alpha_bar) - np.sqrt(1 / alpha_bar - 1) * eps
        x = process.mean_from_start[index] * start + process.mean_from_noisy[index] * x
        if index:
            share = (v + 1) / 2
            log_variance = share * process.log_betas[index] + (1 - share) * process.posterior_log_variance[index]
            x = x + temperature * (0.5 * log_variance).exp() * tape[1 + count].flatten(0, 1)
    return x.view(tape[0].shape)


@pytest.mark.parametrize("solver", [Ancestral, Deterministic])
def test_solvers_end_at_the_start_when_the_noise_is_known(solver: type) -> None:
    """Given the true noise at every step, the last step lands on the clean token exactly."""
    process = Diffusion.cosine(10)
    steps = solver(process, temperature=1.0)
    rng = torch.Generator().manual_seed(0)
    clean = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    x = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    for step in range(10):
        alpha_bar = float(process.alpha_bar[::-1][step])
        eps = (x - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
        noise = torch.randn(4, 3, generator=rng, dtype=torch.float64) if steps.needs_noise(step) else None
        x = steps.step(steps.coefficients[step], x, eps, torch.zeros_like(x), noise)
    # The last kept timestep is 0, whose step returns the predicted start itself.
    torch.testing.assert_close(x, clean, rtol=1e-9, atol=1e-9)


def test_loss_with_repeats_is_the_mean_over_them() -> None:
    head = random_head()
    rng = torch.Generator().manual_seed(0)
    z, tokens = torch.randn(2, 4, 8, generator=rng), torch.randn(2, 4, 3, generator=rng)
    timesteps = torch.randint(1000, (16,), generator=rng)
    noise = torch.randn(16, 3, generator=rng)
    both = head.loss(z, tokens, repeats=2, timesteps=timesteps, noise=noise)
    halves = [head.loss(z, tokens, timesteps=timesteps[half], noise=noise[half]) for half in (slice(8), slice(8, 16))]
    torch.testing.assert_close(both, (halves[0] + halves[1]) / 2)


def test_bound_trains_the_variance_alone() -> None:
    """With the squared error taken away, no gradient reaches the noise prediction."""
    head = random_head()
    out = head.net.final_layer.linear
    rng = torch.Generator().manual_seed(0)
    z, tokens = torch.randn(8, 8, generator=rng), torch.randn(8, 3, generator=rng)
    timesteps, noise = torch.randint(1000, (8,), generator=rng), torch.randn(8, 3, generator=rng)
    head.loss(z, tokens, timesteps=timesteps, noise=noise).backward()
    total = out.bias.grad.clone()
    process = Diffusion.cosine()
    alpha_bar = torch.as_tensor(process.alpha_bar[timesteps.numpy()]).float()[:, None]
    noisy = alpha_bar.sqrt() * tokens + (1 - alpha_bar).sqrt() * noise
    head.zero_grad()
    ((head.net(noisy, timesteps, z)[:, :3] - noise) ** 2).mean().backward()
    torch.testing.assert_close(total[:3], out.bias.grad[:3])
    assert total[3:].abs().sum() > 0
