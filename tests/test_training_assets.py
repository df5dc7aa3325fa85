"""The weights that ship: there for every recipe, small together, and as good as they are said to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.spatial.distance import cdist, pdist

import arbench
from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.generators.methods import get_preset
from arbench.images.data import open_data
from arbench.images.pixels import to_float, to_uint8
from arbench.runs.labels import make_labels
from arbench.training.recipes import KINDS, digits_recipes, get_recipe

ROOT = Path(__file__).parent.parent
LARGEST_TOTAL = 21_000_000  # bytes, of the ten files that travel with the package


def asset(target):
    return ROOT / digits_recipes()[target].asset


def test_recipes_are_complete():
    for target, recipe in digits_recipes().items():
        assert recipe.target == target
        assert recipe.kind in KINDS
        assert (recipe.tokenizer in digits_recipes()) == (recipe.kind == "generator")
    with pytest.raises(ValueError, match="did you mean 'mar-digits'"):
        get_recipe("mar-digit")


def test_shipped_weights_are_small_and_float32():
    assert sum(asset(target).stat().st_size for target in digits_recipes()) < LARGEST_TOTAL
    for target in digits_recipes():
        assert {value.dtype for value in load_file(asset(target)).values()} == {torch.float32}
        with safe_open(asset(target), "pt") as file:
            assert file.metadata()["target"] == target


def test_classifier_reads_the_heldout_digits():
    model = DigitsCNN().eval()
    model.load_state_dict(load_file(asset("digits-cnn")))
    heldout = open_data("digits", split="heldout")
    with torch.inference_mode():
        read = model(to_float(heldout.images())).argmax(1).numpy()
    assert (read == heldout.labels).mean() >= 0.98


@pytest.mark.parametrize(("name", "decibels"), [("digits-kl", 40.0), ("digits-vq", 37.0)])
def test_tokenizers_reconstruct_the_heldout_digits(name, decibels):
    tokenizer = arbench.load_tokenizer(name)
    images = open_data("digits", split="heldout").images(range(100))
    tokens = tokenizer.encode(to_float(images))
    assert tokens.shape[-2:] == (8, 8)
    error = (to_uint8(tokenizer.decode(tokens)).astype(float) - images) ** 2
    assert 10 * torch.tensor(255**2 / error.mean()).log10() >= decibels
    if tokenizer.kind == "discrete":
        assert len(tokens.unique()) > tokenizer.vocab_size / 2


def test_kl_latents_have_unit_deviation():
    tokenizer = arbench.load_tokenizer("digits-kl")
    latents = tokenizer.encode(to_float(open_data("digits").images(range(300))), rng=torch.Generator().manual_seed(0))
    # The scale was measured on all 1,437 training images; 300 of them differ by about a percent.
    assert latents.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ar-digits", "par-digits", "mar-digits", "arpg-digits"])
def test_generators_draw_the_digit_that_was_asked_for(model):
    preset = get_preset(model)
    generator, tokenizer = arbench.load_generator(model), arbench.load_tokenizer(preset.tokenizer)
    labels = make_labels(200, 10)
    images = to_uint8(tokenizer.decode(arbench.generate(generator, labels, seed=1, **preset.sampling)))
    classifier = DigitsCNN().eval()
    classifier.load_state_dict(load_file(asset("digits-cnn")))
    with torch.inference_mode():
        read = classifier(to_float(images)).argmax(1).numpy()
    assert (read == labels).mean() >= 0.95
    grey = images.mean(axis=3).reshape(20, 10, -1)  # (N, ...) -> (images of a class, classes, pixels)
    real = open_data("digits")
    pixels = real.images().mean(axis=3).reshape(len(real), -1)
    spread = np.mean([pdist(grey[:, label]).mean() for label in range(10)])
    real_spread = np.mean([pdist(pixels[real.labels == label]).mean() for label in range(10)])
    assert spread >= 0.7 * real_spread
    nearest_real = np.sort(cdist(pixels, pixels), axis=1)[:, 1]  # the nearest other training image
    assert np.median(cdist(grey.reshape(200, -1), pixels).min(axis=1)) > 0.5 * np.median(nearest_real)
