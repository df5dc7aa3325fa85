"""Tokenizers are trained: two networks in one step, from a given step on, to a file that loads, resumed to the bit."""

import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from arbench_tokenizers.release import ldm_names, llamagen_names
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_trainings import pictures
from torch import nn
from training_cases import ADVERSARIAL, tiny_tokenizer

import arbench
from arbench.cli.jobs import plan_jobs
from arbench.generators.recipe import TrainConfig
from arbench.images.data import ImageData, open_data
from arbench.images.pixels import to_float
from arbench.tokenizer.conformance import check_tokenizer
from arbench.tokenizer.recipe import TokenizerLosses
from arbench.training.checkpoint import find_checkpoint
from arbench.training.crops import CroppedBatches, random_crop
from arbench.training.data import batch_indices
from arbench.training.discriminator import hinge_discriminator_loss
from arbench.training.engine import Engine
from arbench.training.forecast import forecast
from arbench.training.job import SETTINGS_NAME, read_job
from arbench.training.jobs import run_job
from arbench.training.loop import Trainer, train
from arbench.training.tokenizer_job import tokenizer_job
from arbench.training.tokenizer_plan import plan_tokenizer
from arbench.weights.read import read_tensors

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "resolution": 8, "channels": 4}
CODES = {"vocab_size": 16, "codebook_dim": 4}
SUMS = 1e-5  # float32: gradients of two losses are added in another order


def config_of(**changes):
    settings = {"steps": 8, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"}
    return TrainConfig(**{**settings, "ema_rate": 0.0, "checkpoint_every": 100, "log_every": 1, **changes})


def adam(network):
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.95))


def alternating(task, config):
    """LlamaGen's training loop: a step of the tokenizer's optimiser, then one of the discriminator's."""
    tokenizer, discriminator, losses = task.tokenizer, task.discriminator, task.losses
    ours, theirs = adam(tokenizer), adam(discriminator)
    for step in range(config.steps):
        images = task.batches.images(batch_indices(12, config.batch_size, step, config.seed), None)
        found = tokenizer.training_pass(images, None)
        weight = losses.discriminator_weight if step + 1 >= losses.discriminator_start else 0.0
        rebuilding = (found.reconstruction - images).square().mean()
        adversarial = -discriminator(found.reconstruction).mean()
        lengths = [
            torch.autograd.grad(loss, tokenizer.decoder.conv_out.weight, retain_graph=True)[0].norm()
            for loss in (rebuilding, adversarial)
        ]
        adaptive = (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4)
        loss = rebuilding + weight * adaptive * adversarial
        loss = loss + (found.codes - found.latents.detach()).square().mean()
        loss = loss + 0.25 * (found.latents - found.codes.detach()).square().mean()
        ours.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), config.clip_norm)
        ours.step()
        theirs.zero_grad()
        judged = hinge_discriminator_loss(discriminator(images), discriminator(found.reconstruction.detach()))
        (judged if weight else 0 * judged).backward()
        nn.utils.clip_grad_norm_(discriminator.parameters(), config.clip_norm)
        theirs.step()


def test_one_step_of_both_is_a_step_of_each():
    config = config_of(clip_norm=0.1)
    torch.manual_seed(0)
    ours = tiny_tokenizer()
    torch.manual_seed(0)
    theirs = tiny_tokenizer()
    trainer = Trainer(ours, config)
    for _ in range(config.steps):
        trainer.one_step()
    alternating(theirs, config)
    for (name, found), expected in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=SUMS, msg=lambda told, name=name: f"{name}: {told}")


def test_the_discriminator_is_silent_before_its_step():
    torch.manual_seed(0)
    task = tiny_tokenizer()
    torch.manual_seed(0)
    alone = tiny_tokenizer(replace(ADVERSARIAL, discriminator_weight=0))
    trainer, other = Trainer(task, config_of()), Trainer(alone, config_of())
    start = [weight.detach().clone() for weight in task.discriminator.parameters()]
    for step in range(5):
        logged = trainer.one_step()
        assert ("discriminator" in logged) == (step >= 3)  # the fourth step is its first
        same = all(torch.equal(*pair) for pair in zip(start, task.discriminator.parameters(), strict=True))
        assert same == (step < 3)
        other.one_step()
        own = zip(alone.tokenizer.parameters(), task.tokenizer.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in own) == (step < 3)


def test_a_resumed_training_is_the_undisturbed_one(tmp_path):
    def stop(done, logged):
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    config = config_of()
    undisturbed = train(tiny_tokenizer, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_tokenizer, config, tmp_path / "cut", watch=stop)
    resumed = train(tiny_tokenizer, config, tmp_path / "cut", resume=True)
    for name, value in undisturbed.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name
    assert any(name.startswith("model.loss.discriminator.") for name in undisturbed.tensors())


@pytest.mark.parametrize("name", ["llamagen-vq", "kl16"])
def test_what_was_trained_loads_and_says_where_it_comes_from(tmp_path, name):
    codes = {} if name == "kl16" else CODES
    job = tokenizer_job(
        name, size=8, losses={"perceptual_weight": 0, "discriminator_start": 2, "discriminator_layers": 1},
        model_config={**SMALL, **codes, "attention_resolutions": (4,)}, config=config_of(steps=3, crop_share=0.8),
    )  # fmt: skip
    path = run_job(job, tmp_path)
    tokenizer = arbench.load_tokenizer(name, weights=path, resolution=8)
    assert tokenizer.encode(torch.zeros(1, 3, 8, 8)).shape[-2:] == (4, 4)
    digits = to_float(open_data("digits", size=8).images())
    outcome = {check.name: check.outcome for check in check_tokenizer(tokenizer, digits[:3])}
    assert {kind for check, kind in outcome.items() if check != "round trip"} <= {"passed", "skipped"}
    assert not any("loss." in key for key in load_file(path))
    with safe_open(path, "pt") as file:
        assert f'"name": "{name}"' in file.metadata()["tokenizer"]
    if name == "kl16":  # measured, not that of the release
        latents = tokenizer.encode(digits, rng=torch.Generator().manual_seed(0))
        assert tokenizer.scale != 0.2325
        assert latents.std().item() == pytest.approx(1, abs=0.05)
    again = read_job(path.parent / SETTINGS_NAME)
    told = {"config": again.config, "model_config": again.model_config, "workers": again.workers}
    assert again == replace(job, **told)
    assert again.losses["discriminator_start"] == 2
    other = replace(job, losses={**job.losses, "discriminator_start": 3}, config=replace(job.config, steps=4))
    with pytest.raises(ValueError, match="cannot resume with losses"):
        run_job(other, tmp_path, resume=True)


def test_a_checkpoint_is_a_tokenizer_too(tmp_path):
    losses = {"perceptual_weight": 0, "discriminator_start": 1, "discriminator_layers": 1}
    job = tokenizer_job("vq16", size=8, losses=losses, model_config={**SMALL, **CODES}, config=config_of(steps=1))
    path = run_job(job, tmp_path)
    found = arbench.load_tokenizer("vq16", weights=find_checkpoint(path.parent), resolution=8).state_dict()
    exported = load_file(path)
    assert found.keys() == exported.keys()
    assert all(torch.equal(value, exported[name]) for name, value in found.items())


def test_llamagen_names_are_the_releases(parity):
    released = read_tensors(parity("vq_llamagen").folder / "vq_ds16_c2i.pt").tensors("raw")
    released.pop("quantize.codebook_used", None)
    theirs = ldm_names(released)
    back = llamagen_names(theirs.values())
    assert {back[theirs[name]] for name in released} == set(released)
    assert all(back[theirs[name]] == name for name in released)


def picture(height, width):
    """Rows in red, columns in green."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_random_crops_keep_their_share():
    rng = np.random.default_rng(0)
    shown = picture(100, 140)
    heights, lefts = [], []
    for _ in range(200):
        crop = random_crop(shown, 32, 0.8, rng).astype(int)
        assert crop.shape == (32, 32, 3)
        heights.append(np.ptp(crop[..., 0]) + 1)
        lefts.append(crop[0, 0, 1])
    # From 0.8 to all of the shorter side, 100, less what scaling blurs at the borders; anywhere along the longer one.
    assert 73 <= min(heights) <= 82
    assert 92 <= max(heights) <= 100
    assert min(lefts) <= 4
    assert max(lefts) >= 45
    exact = picture(32, 32)
    assert np.array_equal(random_crop(exact, 32, 1.0, rng), exact)


def test_a_crop_is_a_function_of_seed_epoch_and_image():
    held = [picture(20 + index, 30) for index in range(6)]
    data = ImageData("pictures", np.zeros(6), ["one"], lambda index: held[index])

    def crops(numbers, epoch, seed=0):
        config, chosen = config_of(crop_share=0.8, seed=seed), torch.tensor(numbers)
        batches = CroppedBatches(data, 16, config, torch.device("cpu"))
        batches.read_ahead(iter([(chosen, torch.full_like(chosen, epoch))]))
        return batches.images(chosen, torch.Generator())

    whole = crops([0, 3, 5], 7)
    assert whole.shape == (3, 3, 16, 16)
    assert torch.equal(whole, torch.cat([crops([0], 7), crops([3, 5], 7)]))
    assert not torch.equal(whole, crops([0, 3, 5], 8))
    assert not torch.equal(whole, crops([0, 3, 5], 7, seed=1))


def test_the_plan_counts_what_there_is():
    job = tokenizer_job("llamagen-vq", data="somewhere")
    job = replace(job, config=job.config.for_images(1_281_167))
    plan = plan_tokenizer(job, 8, Engine())
    told = list(plan.sentences(torch.device("meta")))
    assert plan.parameters == 71_883_403
    assert plan.rivals == 2_765_633
    assert plan.config.steps == round(40 * 1_281_167 / 128)
    assert "400,365 steps of 128" in told[0]
    assert "from step 20,000" in told[-1]
    assert "1 L2 + 1 LPIPS + 1 codebook + 0.25 commitment + 0.5 hinge" in told[-1]
    # Encoder and decoder of a 256 px image are 138 + 248 GFLOP, three times with the backward pass; VGG-16 and three
    # passes of the discriminator come on top.
    assert 3 * (138 + 248) < plan.flops / 1e9 < 3 * (138 + 248) * 1.3


def test_recomputed_blocks_of_a_tokenizer_are_in_its_plan():
    job = tokenizer_job("llamagen-vq", data="somewhere", size=64, losses={"perceptual_weight": 0})
    job = replace(job, config=job.config.for_images(1280), model_config={"base_channels": 32, "num_res_blocks": 1})
    whole, fewer = (plan_tokenizer(job, 8, Engine(recompute=again)) for again in (False, True))
    assert whole.remedies == (
        "--recompute keeps fewer activations",
        "--accumulate makes smaller micro-batches",
    )
    assert fewer.remedies == whole.remedies[1:]
    assert fewer.activations < 0.6 * whole.activations
    assert fewer.num_bytes - fewer.activations == whole.num_bytes - whole.activations
    one_each = replace(job, config=replace(job.config, micro_batches=job.config.batch_size))
    assert plan_tokenizer(one_each, 8, Engine(recompute=True)).remedies == ()


def test_a_recomputed_tokenizer_has_the_same_gradients():
    gradients = []
    for engine in (Engine(), Engine(recompute=True)):
        torch.manual_seed(0)
        trainer = Trainer(tiny_tokenizer(), config_of(steps=1, batch_size=4), engine=engine)
        trainer.one_step()
        gradients.append([weight.grad for weight in trainer.task.model.parameters()])
    for kept, again in zip(*gradients, strict=True):
        assert torch.equal(kept, again) if kept is not None else again is None


def test_a_forecast_needs_no_images():
    told = " ".join(forecast([tokenizer_job("llamagen-vq")], 8, Engine(), {"epochs": 2}, data=None))
    assert "20,018 steps of 128" in told
    assert "0.5 hinge" in told


SHARED = {"data": "digits", "size": None, "tokenizer": None, "tokenizer_weights": None, "losses": None}


def test_the_command_line_trains_the_tokenizer_that_it_names(tmp_path):
    for target, tokenizer in ((None, "kl16"), ("kl16", None)):
        given = {**SHARED, "tokenizer": tokenizer, "data": "somewhere", "losses": {"perceptual_weight": 0.5}}
        (job,) = plan_jobs(None, target, None, None, given, tmp_path)
        assert (job.target, job.kind, job.size, job.tokenizer) == ("kl16", "tokenizer", 256, None)
        assert job.losses["perceptual_weight"] == 0.5
        assert job.losses["kl_weight"] == 1e-6
    (job,) = plan_jobs(None, "digits-kl", None, None, SHARED, tmp_path)
    assert (job.size, job.losses) == (32, TokenizerLosses(kl_weight=4e-6).as_dict())
    for given, told in (
        ({"tokenizer": "diffusers"}, "'diffusers' cannot be trained: it lacks recipe"),
        ({"tokenizer": "kl61"}, "did you mean 'kl16'"),
        ({"tokenizer": "kl16", "tokenizer_weights": "file"}, "expected --init FILE"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            plan_jobs(None, None, None, None, {**SHARED, **given}, tmp_path)
    with pytest.raises(ValueError, match="--perceptual-weight is for tokenizers; 'mar-digits' is none"):
        plan_jobs(None, None, "mar", None, {**SHARED, "losses": {"perceptual_weight": 0}}, tmp_path)


def test_images_that_do_not_fit_are_refused(tmp_path):
    for side in (8, 24):
        folder = tmp_path / str(side) / "one"
        folder.mkdir(parents=True)
        Image.fromarray(picture(side, side)).save(folder / "0.png")
    plain = {"perceptual_weight": 0}
    with pytest.raises(ValueError, match="images of 256 px; expected --data DIR"):
        run_job(tokenizer_job("vq16", losses=plain), tmp_path / "out")
    for size, told in ((40, "--size 40: expected a multiple of 16"), (16, "judges images of 24 px or more")):
        job = tokenizer_job("vq16", size=size, losses=plain, data=str(tmp_path / "24"), config=config_of(steps=1))
        with pytest.raises(ValueError, match=told):
            run_job(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_llamagens_tokenizer_takes_two_steps_as_it_is(tmp_path):
    losses = {"perceptual_weight": 0, "discriminator_start": 2}
    config = config_of(steps=2, batch_size=2, crop_share=0.8)
    data = str(pictures(tmp_path / "data", each=2, side=80))
    job = tokenizer_job("llamagen-vq", size=64, data=data, losses=losses, config=config)
    path = run_job(job, tmp_path)
    assert arbench.load_tokenizer("llamagen-vq", weights=path).encode(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 4)
