"""Training without a cache: the views that a cache would hold, another one each epoch, and resume to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_cache import Codes, Moments

from arbench.generators.recipe import Augmentation
from arbench.images.data import open_data
from arbench.training.asked import digits_job, with_settings
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.jobs import run_job
from arbench.training.uncached import FreshTokens

CPU = torch.device("cpu")


def fresh(tokenizer, data, view_set, seed=0, workers=0, augmentation=None):
    spec = describe_cache(tokenizer, data, view_set=view_set, augmentation=augmentation)
    return FreshTokens(tokenizer, data, spec, seed=seed, workers=workers, device=CPU)


def seen(tokens, indices, epochs, seed=0):
    """Tokens of one batch as a step gets them."""
    tokens.read_ahead(iter([(indices, epochs)]))
    return tokens.tokens(indices, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("view_set", "count"), [("mirror", 2), ("ten-crop", 18)])
def test_every_view_of_a_cache_is_drawn_and_no_other(tmp_path, view_set, count):
    data = open_data("digits")
    data.labels = data.labels[:2]  # two images suffice
    spec = describe_cache(Codes(), data, view_set=view_set)
    held = np.load(build_cache(Codes(), data, spec, tmp_path).folder / "tokens-00000.npy")[1]
    tokens = fresh(Codes(), data, view_set)
    epochs = torch.arange(200)  # a view of twenty is missed with a chance of 20 * 0.95^200 = 0.0007, of a fixed seed
    drawn = seen(tokens, torch.ones(200, dtype=torch.int64), epochs).numpy()
    assert drawn.dtype == np.int64
    assert {view.tobytes() for view in drawn} == {view.tobytes() for view in held.astype(np.int64)}
    assert len({view.tobytes() for view in held}) == count  # of 33 pixels the centre of 32 is a corner, twice


def test_a_view_is_a_function_of_seed_epoch_and_image():
    data, indices, epochs = open_data("digits"), torch.tensor([5, 9, 5]), torch.tensor([0, 0, 3])
    settings = Augmentation(rotation=10, shift=1)
    first = seen(fresh(Codes(), data, "random", augmentation=settings), indices, epochs)
    for workers in (0, 2):
        again = fresh(Codes(), data, "random", workers=workers, augmentation=settings)
        assert torch.equal(seen(again, indices.flip(0), epochs.flip(0)), first.flip(0))
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(seen(fresh(Codes(), data, "random", seed=1, augmentation=settings), indices, epochs), first)


def test_posterior_samples_are_drawn_from_the_steps_numbers_in_float32():
    data, indices = open_data("digits"), torch.tensor([5, 9])
    tokens = fresh(Moments(), data, "random")
    with torch.autocast("cpu", torch.bfloat16):
        first = seen(tokens, indices, torch.zeros_like(indices))
    assert first.dtype == torch.float32
    assert torch.equal(seen(tokens, indices, torch.zeros_like(indices)), first)
    assert not torch.equal(seen(tokens, indices, torch.zeros_like(indices), seed=1), first)
    assert torch.equal(tokens.labels, torch.from_numpy(data.labels))


@pytest.mark.parametrize("target", ["mar-digits", "ar-digits"])
def test_resumed_uncached_training_equals_the_undisturbed_one(tmp_path, target):
    job = digits_job(target, device="cpu")
    settings = {"batch_size": 4, "checkpoint_every": 3, "cached": False, "view_set": "random"}
    config = replace(with_settings(job.config, steps=5, **settings), augmentation=Augmentation(shift=1, flip=True))
    whole = run_job(replace(job, config=config), tmp_path / "whole")

    def stop(step, logged):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(replace(job, config=config), tmp_path / "cut", watch=stop)
    resumed = run_job(replace(job, config=config), tmp_path / "cut", resume=True)
    assert resumed.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "whole" / "cache").exists()
    with pytest.raises(ValueError, match="cannot resume with cached=True"):
        run_job(replace(job, config=replace(config, cached=True)), tmp_path / "cut", resume=True)
