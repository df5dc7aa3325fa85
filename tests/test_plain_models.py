"""The generators in float64 against `plain_models`, which knows no cache, no batch and none of our code."""

from __future__ import annotations

import plain_models
import pytest
import torch
from conftest import make_generator, relative_error
from safetensors.torch import load_file
from test_load import GIVEN, PARITY, load
from torch import Tensor

from arbench.generators.common.tokens import patchify
from arbench.sampling.algorithm import generate
from arbench.sampling.noise import FixedNoise

# float64 against float64: sums in another order, carried through the whole model or the whole generation.
PLAIN_ERROR = 1e-9
CAUSAL_FOLDERS = ("ar", "par4", "par16")
MASKED_FOLDERS = ("mar", "mar_patch2")


def weights_of(generator: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in generator.state_dict().items()}


@pytest.mark.parametrize("folder", CAUSAL_FOLDERS)
def test_causal_logits_of_released_files(folder: str) -> None:
    model, expected = load(folder, dtype=torch.float64), load_file(PARITY / folder / "expected.safetensors")
    ids, labels = expected["ids"], expected["labels"]  # ids in generation order
    found = model.logits(ids[:, model.order.argsort()].unflatten(1, model.grid), labels)
    assert found.dtype == torch.float64
    plain = [
        plain_models.causal_logits(weights_of(model), row.tolist(), label, GIVEN[folder]["heads"], 8, model.parallel)
        for row, label in zip(ids[:2], labels[:2].tolist(), strict=True)
    ]
    assert relative_error(found[:2], torch.stack(plain)) < PLAIN_ERROR


@pytest.mark.parametrize(("name", "parallel"), [("ar-raster", 1), ("par", 4)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_greedy_codes(name: str, parallel: int, scale: float) -> None:
    model = make_generator(name).double()
    found = generate(model, [0, 4], temperature=0.0, cfg_scale=scale).flatten(1)[:, model.order]
    shape = {"nobody": model.num_classes, "heads": model.heads, "side": 4, "parallel": parallel}
    for row, label in zip(found, (0, 4), strict=True):
        assert row.tolist() == plain_models.greedy_codes(weights_of(model), label, scale, **shape)


@pytest.mark.parametrize("folder", MASKED_FOLDERS)
def test_masked_conditions_and_head_of_released_files(folder: str) -> None:
    model, expected = load(folder, dtype=torch.float64), load_file(PARITY / folder / "expected.safetensors")
    latents, mask, labels = expected["latents"].double(), expected["mask"], expected["labels"]
    tokens, heads = patchify(latents, model.config.patch_size), GIVEN[folder]["encoder_heads"]
    for given in (labels, torch.full_like(labels, model.num_classes)):
        plain = [
            plain_models.masked_conditions(
                weights_of(model), row, hidden.bool().tolist(), None if label == model.num_classes else label, heads
            )
            for row, hidden, label in zip(tokens, mask, given.tolist(), strict=True)
        ]
        assert relative_error(model.condition(latents, mask, given), torch.stack(plain)) < PLAIN_ERROR
    x, t, z = expected["head_x"].double(), expected["head_t"], expected["head_z"].double()
    plain = [torch.cat(plain_models.predict(weights_of(model), *row)) for row in zip(x, t.tolist(), z, strict=True)]
    assert relative_error(model.head(x, t, z), torch.stack(plain)) < PLAIN_ERROR


@pytest.mark.parametrize(("cfg", "warmth", "iterations"), [(1.0, 0.95, 16), (2.5, 1.0, 5)])
def test_masked_generations(cfg: float, warmth: float, iterations: int) -> None:
    model, steps = make_generator("mar", "diffusion").double(), 6
    rng = torch.Generator().manual_seed(0)
    gaussian = torch.randn(1 + steps, 2, 16, 3, generator=rng, dtype=torch.float64)
    orders = torch.stack([torch.randperm(16, generator=rng) for _ in range(2)])
    settings = {"num_iter": iterations, "cfg_scale": cfg, "temperature": warmth, "head_steps": steps}
    found = patchify(generate(model, [1, 4], noise=FixedNoise(orders=orders, gaussian=gaussian), **settings), 1)
    assert found.dtype == torch.float64
    for image, label in enumerate((1, 4)):
        plain = plain_models.masked_tokens(
            weights_of(model), label, orders[image].tolist(), gaussian[:, image],
            heads=2, iterations=iterations, cfg=cfg, warmth=warmth,
        )  # fmt: skip
        assert relative_error(found[image], plain) < PLAIN_ERROR


def test_the_plain_model_itself_matches_the_original() -> None:
    """So that two implementations of one project cannot agree on a mistake."""
    recorded = load_file(PARITY / "par4" / "expected.safetensors")
    weights = {name: tensor.double() for name, tensor in weights_of(load("par4")).items()}
    plain = plain_models.causal_logits(weights, recorded["ids"][0].tolist(), int(recorded["labels"][0]), 4, 8, 4)
    # The recorded outputs are float32.
    assert relative_error(plain.float(), recorded["logits"][0]) < 1e-4
