"""The papers' recipes: steps as the originals take them, what decays, the rate at an epoch, dropout at its places."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import PARITY, make_generator, make_tokens
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import arbench
from arbench.generators.ar.config import ARConfig
from arbench.generators.ar.model import AR
from arbench.generators.methods import get_method
from arbench.generators.par.config import PARConfig
from arbench.generators.par.model import PAR
from arbench.generators.recipe import TrainConfig
from arbench.training.asked import method_job, with_settings
from arbench.training.engine import Engine
from arbench.training.forecast import forecast
from arbench.training.loop import Trainer
from arbench.training.start import set_dropout, zero_output
from arbench.training.views import count_views, crop_sides, views_of
from arbench.weights.configure import build_generator

IMAGENET_IMAGES = 1_281_167
ERROR = 1e-5  # float32 against float32 of another implementation over three steps


def recorded(name):
    folder = PARITY / name
    meta = json.loads((folder / "meta.json").read_text())
    config = dict(meta["config"])
    parallel = config.pop("parallel")
    model = AR(ARConfig(**config)) if parallel == 1 else PAR(PARConfig(**config, parallel=parallel))
    model.load_state_dict(torch.load(folder / "start.pt", weights_only=True)["model"])
    return meta, model, load_file(folder / "expected.safetensors")


class RecordedTask:
    """The recorded batches one after another, without the label drop."""

    def __init__(self, model, expected):
        self.model, self.expected, self.step = model, expected, 0

    def __len__(self):
        return 4

    def loss(self, indices, rng):
        self.model.eval()
        ids, labels = self.expected["ids"][self.step].long(), self.expected["labels"][self.step].long()
        self.step += 1
        return self.model.loss(ids, labels), {}

    def weights(self):
        return self.model.state_dict()

    def after_step(self, step, config, rng):
        pass


@pytest.mark.parametrize("name", ["train_ar", "train_par"])
def test_three_steps_are_those_of_the_originals(name):
    meta, model, expected = recorded(name)
    known = meta["optimizer"]
    config = TrainConfig(
        steps=3,
        batch_size=4,
        learning_rate=known["learning_rate"],
        warmup_steps=0,
        schedule="constant",
        betas=tuple(known["betas"]),
        weight_decay=known["weight_decay"],
        clip_norm=known["clip_norm"],
        ema_rate=0.0,
    )
    trainer = Trainer(RecordedTask(model, expected), config)
    # Of PAR's masked attention the plain kernel is nearest to what was recorded, 6e-6; exact arithmetic is 1.2e-5 away.
    with sdpa_kernel(SDPBackend.MATH) if name == "train_par" else nullcontext():
        rows = [trainer.one_step() for _ in range(3)]
    assert [float(row["loss"]) for row in rows] == pytest.approx(meta["losses"], abs=ERROR)
    assert [float(row["gradient_norm"]) for row in rows] == pytest.approx(meta["gradient_norms"], abs=ERROR)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[f"after.{key}"], rtol=0, atol=ERROR)


def decayed_names(model):
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = arbench.parameter_groups(model, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    return [{names[id(weight)] for weight in group["params"]} for group in groups]


@pytest.mark.parametrize("name", ["train_ar", "train_par"])
def test_what_decays_of_a_gpt(name):
    meta, model, _ = recorded(name)
    assert decayed_names(model) == [set(meta["decay"]), set(meta["no_decay"])]


def test_what_decays_of_mar_and_its_rate():
    told = json.loads((PARITY / "train_mar_groups.json").read_text())
    model = make_generator("mar", "diffusion")
    assert decayed_names(model) == [set(told["mar"]["decay"]), set(told["mar"]["no_decay"])]
    config = get_method("mar").recipe.for_images(IMAGENET_IMAGES)
    for epoch, relative in told["learning_rate"]["mar"]["relative"].items():
        step = float(epoch) * IMAGENET_IMAGES / config.batch_size
        assert config.learning_rate_at(step) / config.learning_rate == pytest.approx(relative, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "epochs", "batch", "rate"),
    [("ar", 300, 256, 1e-4), ("par", 300, 256, 1e-4), ("mar", 400, 2048, 8e-4), ("arpg", 400, 1024, 4e-4)],
)
def test_lengths_are_told_in_epochs(method, epochs, batch, rate):
    recipe = get_method(method).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.dropout) == (epochs, batch, rate, 0.1)
    config = recipe.for_images(IMAGENET_IMAGES)
    assert config.steps == round(epochs * IMAGENET_IMAGES / batch)
    assert recipe.for_images(1000).steps == round(epochs * 1000 / batch)
    assert config.for_images(1000) == recipe.for_images(1000)
    assert config.learning_rate_at(config.steps) == pytest.approx(1e-5 if method == "arpg" else rate)


def test_a_warm_up_of_over_half_the_run_shrinks():
    config = TrainConfig(epochs=4, batch_size=10, learning_rate=1.0, warmup_epochs=3).for_images(100)
    assert (config.steps, config.warmup) == (40, 4)
    assert TrainConfig(epochs=4, batch_size=10, learning_rate=1.0, warmup_epochs=1.55).for_images(100).warmup == 15.5


def test_a_warm_up_that_shrinks_is_told():
    said = []
    recipe = get_method("mar").recipe
    shrunk = with_settings(recipe, epochs=150).for_images(IMAGENET_IMAGES, said.append)
    assert said == [
        "warm-up 62,557 -> 9,383 steps: it would be over half of the run's 93,835, so it is a tenth of them"
    ]
    assert shrunk.warmup == 9383
    for kept in (recipe.for_images(IMAGENET_IMAGES, said.append), shrunk.for_images(IMAGENET_IMAGES, said.append)):
        assert kept.warmup in (9383, pytest.approx(62_557, abs=1))
    assert len(said) == 1
    told = list(forecast([method_job("mar", "mar-b")], 8, Engine(), {"epochs": 150}, data=None, say=said.append))
    assert said[1:] == said[:1]
    assert "after 9,383 steps of warm-up" in " ".join(" ".join(told).split())


@pytest.mark.parametrize(
    ("name", "head", "places"),
    [
        ("ar-raster", "categorical", 1 + 2 * 2),  # the embedded tokens; the attention's and the MLP's output
        ("par", "categorical", 1 + 2 * 2),
        ("arpg", "categorical", 2 + 2 * 4),  # the embedded mask tokens of its second pass too
        ("mar", "diffusion", 4 * 3),  # the attention's output and both layers of the MLP, in encoder and decoder
    ],
)
def test_dropout_at_its_places(monkeypatch, name, head, places):
    tiny = dict(get_method("arpg").tiny)
    model = build_generator("arpg", tiny) if name == "arpg" else make_generator(name, head)
    seen, weights = [], []
    set_dropout(model, 0.1)
    tokens, labels = make_tokens(model), torch.zeros(3, dtype=torch.int64)
    dropout, attention = nn.functional.dropout, nn.functional.scaled_dot_product_attention

    def counted(x, p=0.5, training=True, inplace=False):
        seen.append((p, training))
        return dropout(x, p, training, inplace)

    def attending(*given, dropout_p=0.0, **named):
        weights.append(dropout_p)
        return attention(*given, dropout_p=dropout_p, **named)

    monkeypatch.setattr(nn.functional, "dropout", counted)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attending)
    model.train().loss(tokens, labels, rng=torch.Generator().manual_seed(0))
    assert seen == [(0.1, True)] * places
    assert weights == [0.1 if name == "mar" else 0.0] * len(weights)
    model.eval().loss(tokens, labels, rng=torch.Generator().manual_seed(0))
    assert seen[places:] == [(0.1, False)] * places
    assert weights[len(weights) // 2 :] == [0.0] * (len(weights) // 2)


def test_the_output_layer_starts_at_zero():
    model = make_generator("par")
    zero_output(model)
    loss = model.loss(make_tokens(model), torch.zeros(3, dtype=torch.int64))
    assert loss.item() == pytest.approx(torch.tensor(17.0).log().item())  # every code of 17 is equally likely
    assert get_method("par").recipe.zero_output


def test_ten_crops_are_corners_and_centre_and_their_mirrors():
    assert crop_sides("ten-crop", 384) == [422, 403]
    wide = torch.arange(4 * 4.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    views = list(views_of(torch.zeros(1, 3, 2, 2), [wide, wide], "ten-crop", 1, None, None))
    assert len(views) == count_views("ten-crop", 1) == 20
    expected = [wide[..., r : r + 2, c : c + 2] for r, c in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    for view, crop in zip(views[:5], expected, strict=True):
        assert torch.equal(view, crop)
    assert all(any(torch.equal(view, crop.flip(-1)) for crop in expected) for view in views[5:10])
    plain, mirrored = views_of(wide, [], "mirror", 1, None, None)
    assert torch.equal(mirrored, plain.flip(-1))
    assert count_views("mirror", 7) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mar-b", "par-b-4x"])
def test_full_size_models_take_two_steps(name):
    method = name.partition("-")[0]
    recipe = replace(get_method(method).recipe, batch_size=2, micro_batches=0, dtype="float32").for_images(4)
    model = arbench.load_generator(name, weights="random")
    set_dropout(model, recipe.dropout)

    class Task(RecordedTask):
        def loss(self, indices, rng):
            tokens = make_tokens(self.model, batch=2, seed=self.step)
            return self.model.loss(tokens, torch.tensor([1, 2]), rng=rng), {}

    trainer = Trainer(Task(model, {}), recipe)
    losses = [float(trainer.one_step()["loss"]) for _ in range(2)]
    assert all(0 < loss < 20 for loss in losses)
    assert trainer.step == 2
