"""The random numbers of an image depend on (seed, image id) alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from arbench.machine.fused import (
    MOST_COMPILATIONS,
    EngineWarning,
    Fused,
    compiled_regions,
    forget_compiled,
    limited_compilations,
)
from arbench.sampling import noise as drawing
from arbench.sampling.noise import FixedNoise, ImageNoise, UniformsAhead, check_seed, normals, philox

IDS = torch.tensor([0, 7, 123_456])
POSITIONS = torch.arange(16).expand(3, -1)
FIRST_DRAW = 0.271694831433706  # seed 3, image 7, token 5, as every release drew it
# The same image and token, denoising step 2.
NORMALS = [-1.1249136924743652, 0.3437274396419525, -0.04399368539452553]
NORMALS += [-0.1114073395729065, 0.9221635460853577, -1.635850191116333]


def test_philox_equals_its_published_vectors() -> None:
    # Known answers of the authors' own test suite for philox4x32-10 (Random123, kat_vectors).
    zero = torch.zeros(1, dtype=torch.int64)
    words = [int(word) for word in philox((zero, zero, zero, zero), (0, 0))]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = torch.full((1,), 0xFFFFFFFF)
    words = [int(word) for word in philox((ones, ones, ones, ones), (0xFFFFFFFF, 0xFFFFFFFF))]
    assert words == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70, 0.5, True, "0"])
def test_a_seed_that_would_repeat_another_is_refused(seed) -> None:
    with pytest.raises(ValueError, match=r"expected a whole number from 0 to 2\*\*64 - 1"):
        ImageNoise(seed, IDS)


def test_the_last_seed_is_one_of_its_own() -> None:
    assert check_seed(2**64 - 1) == 2**64 - 1
    assert not torch.equal(ImageNoise(2**64 - 1, IDS).uniform(POSITIONS), ImageNoise(0, IDS).uniform(POSITIONS))


def test_draws_do_not_depend_on_the_batch() -> None:
    together = ImageNoise(3, IDS)
    for row, image in enumerate(IDS):
        alone = ImageNoise(3, image[None])
        assert torch.equal(alone.orders(16)[0], together.orders(16)[row])
        assert torch.equal(alone.uniform(POSITIONS[:1])[0], together.uniform(POSITIONS)[row])
        assert torch.equal(alone.gaussian(5, POSITIONS[:1], 6)[0], together.gaussian(5, POSITIONS, 6)[row])


def test_draws_belong_to_tokens_not_to_their_place_in_the_batch() -> None:
    noise = ImageNoise(0, IDS)
    some = torch.tensor([[3, 9], [0, 15], [7, 7]])
    assert torch.equal(noise.uniform(some), noise.uniform(POSITIONS).gather(1, some))
    index = some.unsqueeze(-1).expand(-1, -1, 5)
    assert torch.equal(noise.gaussian(2, some, 5), noise.gaussian(2, POSITIONS, 5).gather(1, index))


def test_seeds_images_steps_and_purposes_differ() -> None:
    draws = [
        ImageNoise(0, IDS).uniform(POSITIONS),
        ImageNoise(1, IDS).uniform(POSITIONS),
        ImageNoise(2**33, IDS).uniform(POSITIONS),
        ImageNoise(0, IDS + 1).uniform(POSITIONS),
    ]
    gaussians = [ImageNoise(0, IDS).gaussian(step, POSITIONS, 4).double() for step in (0, 1, 2)]
    for values in (draws, gaussians):
        flat = torch.cat([value.flatten() for value in values])
        assert len(flat.unique()) == len(flat)


def test_dtypes() -> None:
    noise = ImageNoise(0, IDS)
    assert noise.orders(4).dtype == torch.int64
    assert noise.uniform(POSITIONS).dtype == torch.float64
    assert noise.gaussian(0, POSITIONS, 3).dtype == torch.float32


def test_distributions() -> None:
    ids = torch.arange(500)
    places = torch.arange(64).expand(500, -1)
    normal = ImageNoise(1, ids).gaussian(1, places, 4).flatten().numpy()
    uniform = ImageNoise(1, ids).uniform(places).flatten().numpy()
    # With 128,000 and 32,000 values a fair source passes at p > 1e-3 under this fixed seed.
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.01  # 3.6 standard errors of 128,000 pairs


def test_orders_are_permutations_that_vary() -> None:
    orders = ImageNoise(0, torch.arange(200)).orders(16)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(16).expand(200, -1))
    first = torch.bincount(orders[:, 0], minlength=16)
    assert stats.chisquare(first.numpy()).pvalue > 1e-3


def test_fixed_noise_gives_back_its_tape() -> None:
    tape = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    noise = FixedNoise(orders=torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), gaussian=tape)
    assert torch.equal(noise.gaussian(2, torch.tensor([[1, 3], [0, 2]]), 5)[1, 1], tape[2, 1, 2])
    for call in (
        lambda: noise.uniform(torch.zeros(2, 1, dtype=torch.int64)),
        lambda: noise.gaussian(3, torch.zeros(2, 1, dtype=torch.int64), 5),
        lambda: noise.orders(9),
    ):
        with pytest.raises(ValueError, match="FixedNoise"):
            call()


def test_another_draw_at_a_place_is_another_number() -> None:
    noise = ImageNoise(3, IDS)
    draws = [noise.uniform(POSITIONS, draw) for draw in range(4)]
    assert torch.equal(draws[0], noise.uniform(POSITIONS))
    assert len(torch.stack(draws).unique()) == 4 * POSITIONS.numel()
    # The first draw is the one that images have always been made of.
    assert float(noise.uniform(torch.tensor([[5]] * 3))[1]) == pytest.approx(FIRST_DRAW, abs=1e-15)


def test_a_tape_of_several_draws() -> None:
    tape = torch.rand(2, 3, 16, dtype=torch.float64)
    noise, places = FixedNoise(uniform=tape), torch.tensor([[3], [1], [15]])
    for draw in (0, 1):
        assert torch.equal(noise.uniform(places, draw), tape[draw].gather(1, places))
    assert torch.equal(FixedNoise(uniform=tape[0]).uniform(places), tape[0].gather(1, places))
    with pytest.raises(ValueError, match=r"FixedNoise: uniform of shape .* given, draw 2 needed"):
        noise.uniform(places, 2)


@pytest.mark.parametrize("counters", [1, 2 * POSITIONS.numel(), 2**20])
def test_steps_drawn_together_are_the_steps_drawn_alone(monkeypatch, counters: int) -> None:
    monkeypatch.setitem(drawing.COUNTERS_AT_ONCE, "cpu", counters)
    noise = ImageNoise(2**40 + 5, IDS)
    together = list(noise.gaussians(5, POSITIONS, 6))
    assert len(together) == 5
    for step, row in enumerate(together):
        assert row.dtype == torch.float32
        assert torch.equal(row, noise.gaussian(step, POSITIONS, 6))


def test_normals_are_those_that_images_have_always_been_made_of() -> None:
    first = ImageNoise(3, IDS).gaussian(2, torch.tensor([[5]] * 3), 6)[1, 0]
    assert first.tolist() == NORMALS


def test_uniforms_drawn_ahead_are_the_same() -> None:
    noise = ImageNoise(3, IDS)
    ahead, some = UniformsAhead(noise, 16), torch.tensor([[3, 9], [0, 15], [7, 7]])
    for draw in (0, 1):
        assert torch.equal(ahead.uniform(some, draw), noise.uniform(some, draw))
    assert torch.equal(ahead.orders(16), noise.orders(16))


KEY = (torch.tensor(5), torch.tensor(256))  # 2^40 + 5
INDEX = torch.arange(10).view(5, 2)  # of five steps, two counters each


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_normals_compile_into_one_function_for_every_shape_and_seed(backend: str) -> None:
    fused = Fused(normals, "normals", backend=backend)
    torch._dynamo.reset()
    wanted = ImageNoise(2**40 + 5, IDS)
    places = POSITIONS.contiguous()
    assert torch.equal(fused(IDS, places, INDEX, KEY, 6)[2], wanted.gaussian(2, POSITIONS, 6))
    with torch._dynamo.config.patch(error_on_recompile=True):
        some = POSITIONS[:, :5].contiguous()
        assert torch.equal(fused(IDS, some, INDEX[1:], KEY, 6)[1], wanted.gaussian(2, some, 6))
        other = ImageNoise(7, IDS).gaussian(0, POSITIONS, 6)
        assert torch.equal(fused(IDS, places, INDEX, (torch.tensor(7), torch.tensor(0)), 6)[0], other)


def test_past_the_limit_of_compilations_a_function_is_called_as_it_is_written() -> None:
    fused = Fused(lambda x, word: x + len(word), "sums", backend="eager", dynamic=None, most=2)
    with pytest.warns(EngineWarning, match="sums in many") as told:
        assert [float(fused(torch.zeros(()), "a" * length)) for length in range(5)] == [0, 1, 2, 3, 4]
    assert len(told) == 1


def test_a_function_is_compiled_more_often_than_is_usual() -> None:
    """A process that draws with one model after another meets many sizes."""
    fused = Fused(lambda x, word: x + len(word), "sums", backend="eager", dynamic=None)
    usual = torch._dynamo.config.cache_size_limit
    assert [float(fused(torch.zeros(()), "a" * length)) for length in range(usual + 3)] == list(range(usual + 3))


def test_what_could_not_be_compiled_is_tried_again_once_that_is_asked_for() -> None:
    calls = []

    def fails_at_first(graph, inputs):
        calls.append(graph)
        if len(calls) == 1:
            raise RuntimeError("no room")
        return graph.forward

    fused = Fused(lambda x: x + 1, "sums", backend=fails_at_first)
    with pytest.warns(EngineWarning, match="sums in many"):
        fused(torch.zeros(3))
    fused(torch.zeros(3))
    assert len(calls) == 1
    forget_compiled()
    assert fused(torch.zeros(3)).tolist() == [1, 1, 1]
    assert len(calls) == 2


class OlderLimits:
    """The settings of torch 2.6, which knows no `recompile_limit`."""

    def __init__(self, config) -> None:
        self._config = config

    def __getattr__(self, name: str):
        if "recompile_limit" in name:
            raise AttributeError(f"torch._dynamo.config.{name} does not exist")
        return getattr(self._config, name)

    def patch(self, changes):
        for name in changes:
            getattr(self, name)
        return self._config.patch(changes)


@pytest.mark.parametrize("is_old", [False, True])
def test_compilations_are_limited_in_the_oldest_torch_too(is_old, monkeypatch) -> None:
    config = torch._dynamo.config
    before = config.cache_size_limit, config.accumulated_cache_size_limit
    if is_old:
        monkeypatch.setattr(torch._dynamo, "config", OlderLimits(config))
    with compiled_regions("eager"):
        assert config.cache_size_limit == MOST_COMPILATIONS
        with limited_compilations(2, 3):
            assert (config.cache_size_limit, config.accumulated_cache_size_limit) == (2, 3)
    assert (config.cache_size_limit, config.accumulated_cache_size_limit) == before


def test_what_cannot_be_compiled_is_told_once_and_drawn_all_the_same() -> None:
    def fails(graph, inputs):
        raise RuntimeError("no compiler here")

    fused = Fused(normals, "random numbers", backend=fails)
    with pytest.warns(EngineWarning, match="random numbers in many kernels, .* compiled") as told:
        first = fused(IDS, POSITIONS, INDEX, KEY, 6)
    assert len(told) == 1
    assert torch.equal(fused(IDS, POSITIONS, INDEX, KEY, 6), first)
    assert torch.equal(first[1], ImageNoise(2**40 + 5, IDS).gaussian(1, POSITIONS, 6))
    assert not fused.pays(POSITIONS)
