"""Reconstruction scores against closed forms, and latent statistics against what they are defined as."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import arbench
from arbench.images.data import ImageData, open_data
from arbench.images.pixels import to_float
from arbench.tokenizer.latents import latent_statistics
from arbench.tokenizer.reconstruction import CodeUsage, measure_reconstruction, psnr, ssim

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits", split="heldout")
    return ImageData("digits", data.labels[:40], data.class_names, lambda i: data[i][0])


def test_psnr_of_a_constant_difference():
    flat = np.full((2, 8, 8, 3), 100, np.uint8)
    found = psnr(flat + np.array([1, 10], np.uint8).reshape(2, 1, 1, 1), flat)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([20 * math.log10(255), 20 * math.log10(25.5)], rel=1e-12)
    assert psnr(flat, flat).tolist() == [100.0, 100.0]


def test_ssim_of_equal_images_is_one():
    # sums of squares up to 255² in float64 leave a few units of rounding
    assert ssim(IMAGES, IMAGES).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_ssim_of_one_window_is_the_formula():
    first, second = IMAGES[:1, :7, :7], IMAGES[1:2, :7, :7]
    x, y = first.reshape(49, 3).astype(float), second.reshape(49, 3).astype(float)
    c1, c2 = 2.55**2, 7.65**2
    covariance = ((x - x.mean(0)) * (y - y.mean(0))).sum(0) / 48
    top = (2 * x.mean(0) * y.mean(0) + c1) * (2 * covariance + c2)
    bottom = (x.mean(0) ** 2 + y.mean(0) ** 2 + c1) * (x.var(0, ddof=1) + y.var(0, ddof=1) + c2)
    # the sums of squares are differenced in another order
    assert ssim(first, second)[0] == pytest.approx((top / bottom).mean(), rel=1e-9)


def test_ssim_of_flat_images_is_the_luminance_term():
    first, second = np.full((1, 9, 9, 3), 50, np.uint8), np.full((1, 9, 9, 3), 200, np.uint8)
    c1 = 2.55**2
    expected = (2 * 50 * 200 + c1) / (50**2 + 200**2 + c1)
    assert ssim(first, second)[0] == pytest.approx(expected, rel=1e-9)


def test_code_usage():
    usage = CodeUsage(8)
    usage.update(torch.tensor([[0, 1], [2, 3]]))
    assert (usage.used, usage.perplexity) == (0.5, pytest.approx(4, rel=1e-12))
    usage.update(torch.zeros(1000, dtype=torch.int64))
    assert usage.used == 0.5
    assert 1 < usage.perplexity < 1.1


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq"])
def test_measured_scores(name, digits):
    tokenizer = arbench.load_tokenizer(name)
    found = measure_reconstruction(tokenizer, digits, extractor="digits-cnn", batch_size=16)
    images = digits.images()
    back = (tokenizer.decode(tokenizer.encode(to_float(images))).clamp(-1, 1) + 1).mul(127.5).round().byte()
    expected = psnr(back.permute(0, 2, 3, 1).numpy(), images).mean()
    assert found["psnr"] == pytest.approx(expected, rel=1e-12)
    assert found["num_images"] == 40
    assert 0 <= found["rfid"] < 5
    assert ("codes_used" in found) == (name == "digits-vq")
    protocol = found["metric_protocol"]
    assert (protocol["extractor"], protocol["reference_count"], protocol["num_images"]) == ("digits-cnn", 40, 40)


def test_batches_change_no_score(digits):
    tokenizer = arbench.load_tokenizer("digits-vq")
    one, many = (measure_reconstruction(tokenizer, digits, extractor=None, batch_size=size) for size in (7, 40))
    assert one == many
    assert "rfid" not in one


def test_too_few_images(digits):
    single = ImageData("one", digits.labels[:1], digits.class_names, lambda i: digits[i][0])
    with pytest.raises(ValueError, match="one: 1 images; expected at least 2"):
        measure_reconstruction(arbench.load_tokenizer("digits-kl"), single)


def test_latent_statistics_of_a_posterior(digits):
    tokenizer = arbench.load_tokenizer("digits-kl")
    mean, std = (value.double() for value in tokenizer.moments(to_float(digits.images())))
    found = latent_statistics(tokenizer, digits, batch_size=16)
    expected = (mean.var(correction=0) + std.square().mean()).sqrt()
    # float64 sums in another order
    assert found.std == pytest.approx(float(expected), rel=1e-9)
    assert found.mean == pytest.approx(float(mean.mean()), rel=1e-9)
    assert found.scale == 1 / found.std
    assert found.channel_mean.shape == found.channel_std.shape == (4,)
    # shipped: measured on the training images, not on these
    assert found.scale == pytest.approx(tokenizer.scale, rel=0.05)


def test_latent_statistics_of_codes_are_those_before_quantisation(digits):
    tokenizer = arbench.load_tokenizer("digits-vq")
    latents = tokenizer.latents(to_float(digits.images())).double()
    assert latent_statistics(tokenizer, digits).std == pytest.approx(float(latents.std(correction=0)), rel=1e-9)
