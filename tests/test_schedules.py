"""Schedules: the sizes of all steps, and the diffusion process, against recorded values and closed forms."""

import numpy as np
import pytest
import torch
from conftest import Parity, make_generator

from arbench.generators.par.model import regions_order
from arbench.heads.schedule import Diffusion, kept_timesteps
from arbench.sampling.guidance import guidance_scale
from arbench.sampling.noise import ImageNoise
from arbench.sampling.schedules import (
    in_two_stages,
    make_schedule,
    masked_sizes,
    sequential_clocks,
    sequential_sizes,
)
from arbench.settings import CategoricalSampling, MaskedDiffusionSampling

RECORDED = Parity("schedule").meta


@pytest.mark.parametrize("key", RECORDED["mar_hidden_after_step"])
def test_hidden_tokens_after_each_iteration(key: str) -> None:
    num_tokens, num_iter = (int(part.split("=")[1]) for part in key.split(","))
    sizes = masked_sizes(num_tokens, num_iter)
    hidden = (num_tokens - np.cumsum(sizes)).tolist()
    assert hidden == RECORDED["mar_hidden_after_step"][key]


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 64, 100])
def test_every_masked_schedule_reveals_all_tokens(num_tokens: int) -> None:
    for num_iter in range(1, num_tokens + 1):
        sizes = masked_sizes(num_tokens, num_iter)
        assert len(sizes) == num_iter
        assert sum(sizes) == num_tokens
        assert min(sizes) >= 1
    assert masked_sizes(num_tokens, 1) == [num_tokens]
    assert masked_sizes(num_tokens, num_tokens) == [1] * num_tokens
    assert masked_sizes(num_tokens, num_tokens + 1) == [1] * num_tokens
    with pytest.raises(ValueError, match="num_iter"):
        masked_sizes(num_tokens, 0)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 16, 64, 100])
def test_the_first_stage_ends_with_a_step(num_tokens: int) -> None:
    first = -(-num_tokens // 2)
    for num_iter in range(1, num_tokens + 2):
        usual = masked_sizes(num_tokens, num_iter)
        sizes = in_two_stages(usual, first)
        assert (len(sizes), sum(sizes)) == (len(usual), num_tokens)
        assert min(sizes) >= 1
        assert num_tokens == 1 or len(sizes) == 1 or first in np.cumsum(sizes)
        assert np.count_nonzero(np.cumsum(sizes) != np.cumsum(usual)) <= 1  # one boundary is moved
    assert in_two_stages([7, 12, 17, 28], 32) == [7, 12, 13, 32]


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6)])
@pytest.mark.parametrize("num_iter", [1, 2, 5])
def test_a_checkerboard_is_one_colour_before_the_other(grid: tuple[int, int], num_iter: int) -> None:
    generator, labels = make_generator("mar", "diffusion", grid=grid), torch.zeros(20, dtype=torch.int64)
    noise = ImageNoise(3, torch.arange(20))
    usual, schedule = (
        make_schedule(generator, MaskedDiffusionSampling(num_iter=num_iter, reveal_order=order), noise, labels)
        for order in ("random", "checkerboard")
    )
    rows, columns = grid
    colour = [(place // columns + place % columns) % 2 for place in range(rows * columns)]
    for mine, theirs in zip(schedule.order.tolist(), usual.order.tolist(), strict=True):
        assert mine == sorted(theirs, key=lambda place: colour[place])  # a stable sort: else as they were
    if num_iter > 1:
        for step in schedule:
            assert len({colour[place] for place in step.positions[0].tolist()}) == 1


def test_parallel_steps_are_those_of_the_paper() -> None:
    assert len(sequential_sizes(576, 4, 4)) == 147  # PAR, Table 1
    assert len(sequential_sizes(576, 16, 16)) == 51
    assert len(sequential_sizes(576, 0, 4)) == 144
    for singles, parallel in ((144, 1), (4, 4), (0, 4), (9, 9), (16, 16)):
        assert sum(sequential_sizes(144, singles, parallel)) == 144
        assert len(sequential_clocks(144, singles, parallel)) == len(sequential_sizes(144, singles, parallel))


def test_clocks_start_again_with_the_groups() -> None:
    assert sequential_clocks(4, 4, 1) == [-1, 0, 1, 2]
    assert sequential_clocks(12, 4, 4) == [-1, 0, 1, 2, 0, 4]
    assert sequential_clocks(12, 0, 4) == [-1, 0, 4]


def test_first_group_is_one_place_of_every_region() -> None:
    order = regions_order((4, 8), 4)
    assert order[:4].tolist() == [0, 4, 16, 20]
    assert sorted(order.tolist()) == list(range(32))
    assert torch.equal(regions_order((4, 8), 1), torch.arange(32))
    for grid, parallel in (((4, 4), 3), ((5, 4), 4)):
        with pytest.raises(ValueError, match=r"parallel|grid"):
            regions_order(grid, parallel)


def test_alpha_bar_timesteps_and_respaced_process() -> None:
    full = Diffusion.cosine()
    for step, value in RECORDED["alphas_cumprod"].items():
        np.testing.assert_allclose(full.alpha_bar[int(step)], value, rtol=1e-12)  # float64 against printed float64
    for count, steps in RECORDED["timesteps"].items():
        assert kept_timesteps(int(count)) == steps
    spaced = Diffusion.cosine(10)
    np.testing.assert_allclose(spaced.betas, RECORDED["spaced_10"]["betas"], rtol=1e-10)
    recorded = RECORDED["spaced_10"]["posterior_log_variance_clipped"]
    np.testing.assert_allclose(spaced.posterior_log_variance, recorded, rtol=1e-9)


def test_timesteps_out_of_range() -> None:
    assert kept_timesteps(1) == [0]
    assert kept_timesteps(1000) == list(range(1000))
    for count in (0, -1, 1001):
        with pytest.raises(ValueError, match="head_steps"):
            kept_timesteps(count)


def test_guidance_grows_with_the_known_tokens_and_stops_after_its_interval() -> None:
    labels, noise = torch.zeros(2, dtype=torch.int64), ImageNoise(0, torch.arange(2))
    settings = MaskedDiffusionSampling(num_iter=4, cfg_scale=3.0)
    steps = list(make_schedule(make_generator("mar", "diffusion"), settings, noise, labels))
    scales = [guidance_scale(settings, step) for step in steps]
    # 16 tokens hidden 14, 11, 6 after the first three; after the last one still counts as hidden.
    assert scales == [1 + 2 * known / 16 for known in (2, 5, 10, 15)]
    constant = MaskedDiffusionSampling(num_iter=4, cfg_scale=3.0, cfg_schedule="constant")
    assert {guidance_scale(constant, step) for step in steps} == {3.0}
    limited = CategoricalSampling(cfg_scale=2.0, cfg_interval=3)
    ar = [guidance_scale(limited, step) for step in make_schedule(make_generator("ar-raster"), limited, noise, labels)]
    assert ar == [2.0] * 5 + [1.0] * 11
    par = [guidance_scale(limited, step) for step in make_schedule(make_generator("par"), limited, noise, labels)]
    assert par == [2.0] * 4 + [2.0, 1.0, 1.0]
