"""A preset may be trained by a recipe of its own: the causal cells of MAR's Table 1 are, by that of their paper."""

from dataclasses import replace

import pytest
import typer
from conftest import make_generator
from typer.testing import CliRunner

import arbench
from arbench.cli.train import register
from arbench.generators.methods import get_method, get_preset
from arbench.generators.spec import NO_GUIDANCE, OWN_SETTINGS
from arbench.images.imagenet import TRAINING_IMAGES
from arbench.training.asked import method_job
from arbench.training.optimiser import make_optimiser
from arbench.training.speed import speed_config

CAUSAL = ("ar-l-ce", "ar-l-diff", "mar-l-causal-ce", "mar-l-causal")
MASKED = ("mar-l-one-ce", "mar-l-one", "mar-l-ce", "mar-l-many")
MAR_PAPER = {  # arXiv:2406.11838, appendix
    "epochs": 400,
    "batch_size": 2048,
    "learning_rate": 1e-4 * 2048 / 256,
    "warmup_epochs": 100,
    "schedule": "constant",
    "betas": (0.9, 0.95),
    "weight_decay": 0.02,
    "clip_norm": 3.0,
    "dropout": 0.1,
    "ema_rate": 0.9999,
    "ema_warmup": False,
    "view_set": "mirror",
    "zero_output": False,
}
LLAMAGEN_PAPER = {  # arXiv:2406.06525, section 3
    "epochs": 300,
    "batch_size": 256,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "warmup_epochs": 0,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "dropout": 0.1,
    "ema_rate": 0.0,
    "view_set": "ten-crop",
    "zero_output": True,
}


@pytest.mark.parametrize("name", [*CAUSAL, *MASKED])
def test_a_cell_of_table_1_is_trained_as_the_paper_says(name):
    preset = get_preset(name)
    config = method_job(preset.method, name).config
    assert {field: getattr(config, field) for field in MAR_PAPER} == MAR_PAPER
    assert config.micro_batches == (32 if name in MASKED else 0)  # as many mask ratios a step
    assert get_method(preset.method).evaluations_of(preset) == (OWN_SETTINGS, NO_GUIDANCE)
    assert speed_config(name, 64, 5, None).clip_norm == 3.0


def test_llamagen_s_models_are_trained_as_before():
    config = method_job("ar", "ar-l").config
    assert config == get_method("ar").recipe
    assert {field: getattr(config, field) for field in LLAMAGEN_PAPER} == LLAMAGEN_PAPER
    assert get_method("ar").evaluations_of(get_preset("ar-l")) == (OWN_SETTINGS,)


def test_the_plan_of_a_causal_cell_is_that_of_the_paper():
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["train", "--model", "ar-l-diff", "--plan", "16"])
    assert not result.exit_code
    told = " ".join(result.output.replace("plan: ", "").split())
    steps = round(400 * TRAINING_IMAGES / 2048)
    assert f"{steps:,} steps of 2048 = {steps * 2048:,} images (400 epochs), learning rate 0.0008 after 62,557" in told
    assert "then constant 16 x 1 micro-batches of 128 images" in told
    assert "by operations, from mar-l's: MAR's repository" in told


def test_the_preset_s_own_recipe_comes_first_then_the_digits():
    method = get_method("ar")
    preset = get_preset("ar-digits")
    own = replace(method.recipe, epochs=7)
    assert method.trained_by(preset) == method.digits_recipe
    assert method.trained_by(replace(preset, recipe=own)) == own
    assert method.trained_by(None) == method.trained_by(replace(preset, data=None)) == method.recipe


def test_tensors_decay_as_the_preset_s_recipe_says():
    """The digits' recipe lets the diffusion head decay, MAR's own does not."""
    model = make_generator("mar", "diffusion")
    head = {id(weight) for weight in model.diffloss.parameters() if weight.ndim >= 2}
    asked = {name: arbench.parameter_groups(model, 0.02, preset=name) for name in (None, "mar-b", "mar-digits")}
    decayed = {name: {id(weight) for weight in groups[0]["params"]} for name, groups in asked.items()}
    assert decayed[None] == decayed["mar-b"] == decayed["mar-digits"] - head
    assert head <= decayed["mar-digits"]
    trained = make_optimiser(model, get_method("mar").digits_recipe)
    assert {id(weight) for weight in trained.param_groups[0]["params"]} == decayed["mar-digits"]
    with pytest.raises(ValueError, match="preset 'ar-l' is of method 'ar'; expected one of 'mar'"):
        arbench.parameter_groups(model, 0.02, preset="ar-l")


def test_a_causal_model_s_memory_has_its_diffusion_head_in_it():
    """A block more of the head takes as much a hidden token as it does of a masked model."""
    sizes = {}
    for name, method, loss_tokens in (("ar-raster", "ar", 16), ("mar", "mar", round(16 * 0.867))):
        model = make_generator(name, "diffusion")
        told = get_method(method).training_memory
        deeper = make_generator(name, "diffusion", head_depth=model.config.head_depth + 1)
        sizes[method] = (told(deeper, True, False) - told(model, True, False)) / loss_tokens
        assert model.num_tokens == 16
    assert sizes["ar"] == sizes["mar"] > 0
