"""The sampling loop: what changes an image, and what does not."""

import numpy as np
import pytest
import torch
from conftest import COMBINATIONS, make_generator, relative_error

from arbench.generators.methods import get_preset
from arbench.runs.labels import make_labels
from arbench.runs.models import load_parts
from arbench.sampling.algorithm import generate
from arbench.settings import SamplingWarning
from arbench.weights.load import load_generator, shipped_weights

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
QUICK = {"categorical": {"cfg_scale": 2.0}, "diffusion": {"cfg_scale": 2.0, "head_steps": 4}}
CELLS = [(name, head) for name in COMBINATIONS for head in QUICK]
# Float32 sums of another length: a batch of one takes other matrix kernels than a batch of six.
BATCH_ERROR = 1e-4


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.dtype == torch.int64:
        return torch.equal(found, expected)
    return relative_error(found, expected) < BATCH_ERROR


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_any_split_into_batches_gives_the_same_images(name: str, head: str) -> None:
    model = make_generator(name, head)
    together = generate(model, LABELS, seed=5, **QUICK[head])
    assert len({tuple(image.flatten().tolist()) for image in together}) == 6
    for size in (1, 4):
        parts = [
            generate(model, LABELS[i : i + size], seed=5, image_ids=range(i, min(6, i + size)), **QUICK[head])
            for i in range(0, 6, size)
        ]
        assert same(torch.cat(parts), together)


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_guidance_of_one_is_the_conditional_model(name: str, head: str) -> None:
    model = make_generator(name, head)
    quick = {**QUICK[head], "cfg_scale": 1.0}
    plain = generate(model, LABELS, **quick)
    assert same(plain, generate(model, LABELS, **{**quick, "cfg_scale": 1.0 + 1e-9}))
    assert not same(plain, generate(model, LABELS, **{**quick, "cfg_scale": 3.0}))


def test_unconditional_rows_leave_when_nobody_reads_them() -> None:
    model = make_generator("par", parallel=4)
    rows: list[int] = []
    model.layers[0].attention.wo.register_forward_hook(lambda module, inputs, out: rows.append(len(out)))
    generate(model, LABELS, cfg_scale=2.0, cfg_interval=5)
    # The clock starts again in the parallel phase (0, 4, 8): guided up to its second step, not after.
    assert rows == [12] * 6 + [6]


def test_seed_and_image_id_decide() -> None:
    model = make_generator("ar-raster")
    first = generate(model, [1, 1], seed=0)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(generate(model, [1, 1], seed=0, image_ids=[7, 0])[1], first[0])
    assert not torch.equal(generate(model, [1, 1], seed=1), first)


def test_state_of_the_generator_is_left_alone() -> None:
    model = make_generator("mar", "diffusion").train()
    before = torch.get_rng_state()
    generate(model, [0], head_steps=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_float64_is_kept_throughout() -> None:
    model = make_generator("mar", "diffusion").double()
    assert generate(model, [0, 1], head_steps=2, num_iter=3).dtype == torch.float64
    assert generate(model.bfloat16(), [0, 1], head_steps=2, num_iter=3).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("labels", "sampling", "message"),
    [
        ([7], {}, "label 7: expected 0 to 4"),
        ([-1], {}, "label -1"),
        ([], {}, "labels of shape"),
        ([0.5], {}, "labels of shape"),
        (["cat"], {}, "labels of shape .* expected a list of class numbers"),
        ([None], {}, "labels of shape"),
        ([2**70], {}, "labels of shape"),
        ([True], {}, "labels of shape"),
        ([[1], [1, 2]], {}, r"labels \[\[1\], \[1, 2\]\]: expected a list of class numbers"),
        ([0], {"image_ids": [1, 2]}, "image_ids"),
        ([0], {"image_ids": [2**32]}, "expected 1 numbers from 0 to 2"),
        ([0], {"num_itr": 4}, "did you mean 'num_iter'"),
        ([0], {"top_k": 4}, "unknown sampling setting"),
        ([0], {"num_iter": 0}, "num_iter 0"),
        ([0], {"num_iter": 2.5}, "num_iter 2.5: expected int"),
        ([0], {"cfg_scale": -1.0}, "cfg_scale"),
        ([0], {"cfg_scale": float("nan")}, "cfg_scale"),
        ([0], {"cfg_schedule": "liner"}, "did you mean 'linear'"),
        ([0], {"head_steps": 1001}, "head_steps"),
        ([0], {"head_sampler": "ddmp"}, "did you mean 'ddpm'"),
        ([0], {"temperature": -0.1}, "temperature"),
    ],
)
def test_mistakes_are_named(labels: list[float], sampling: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(make_generator("mar", "diffusion"), labels, **sampling)


def test_label_lists() -> None:
    balanced = make_labels(25, 10)
    assert balanced.dtype == np.int64
    assert np.bincount(balanced).tolist() == [3] * 5 + [2] * 5
    random = make_labels(1000, 10, "random", seed=1)
    assert np.array_equal(random[:100], make_labels(100, 10, "random", seed=1))
    assert not np.array_equal(random, make_labels(1000, 10, "random", seed=2))
    assert set(random.tolist()) == set(range(10))
    for count, mode in ((0, "balanced"), (5, "balancd")):
        with pytest.raises(ValueError, match=r"num_images|did you mean"):
            make_labels(count, 10, mode)


@pytest.mark.parametrize("part", ["all", "head", "unconditional"])
@pytest.mark.parametrize("name", ["ar-raster", "par", "mar"])
def test_weights_that_are_not_finite_draw_no_codes(name, part):
    """The first of NaN logits is a code like any other: without a look at them an image would come out."""
    model = make_generator(name)
    classes = model.fake_latent if name == "mar" else model.cls_embedding.embedding_table.weight[-1]
    spoilt = {"all": model.parameters(), "head": model.output.parameters(), "unconditional": [classes]}
    with torch.no_grad():
        for values in spoilt[part]:
            values.fill_(float("nan"))
    model.train()
    with pytest.raises(ValueError, match=r"what the codes are drawn from: .* not finite; likely causes"):
        generate(model, [0, 1], cfg_scale=2.0, **({"num_iter": 3} if name == "mar" else {"cfg_interval": 2}))
    assert model.training


@pytest.mark.parametrize("name", ["ar-digits", "par-digits", "mar-digits", "dit-digits", "arpg-digits"])
def test_a_preset_brings_its_own_settings(name: str) -> None:
    generator, preset = load_generator(name), get_preset(name)
    own = dict(preset.sampling)
    assert torch.equal(generate(generator, [3, 7]), generate(generator, [3, 7], **own))
    changed = {"cfg_scale": 3.0}
    found = generate(generator, [3, 7], **changed)
    assert torch.equal(found, generate(generator, [3, 7], **{**own, **changed}))
    assert not torch.equal(found, generate(generator, [3, 7], **own))
    assert torch.equal(
        generate(load_parts(model=name, device=torch.device("cpu")).generator, [3, 7], **own),
        generate(generator, [3, 7]),
    )


def test_a_family_with_the_same_weights_has_the_plain_defaults() -> None:
    preset = get_preset("ar-digits")
    family = load_generator("ar", weights=shipped_weights(preset), heads=3)
    assert torch.equal(generate(family, [3, 7]), generate(load_generator("ar-digits"), [3, 7], cfg_scale=1.0))
    assert not torch.equal(generate(family, [3, 7]), generate(load_generator("ar-digits"), [3, 7]))


def test_a_setting_of_another_head_is_left_out() -> None:
    config = {"head": "categorical", "vocab_size": 256}
    other = load_generator("mar-digits", weights="random", **config)
    assert "head_sampler" in other.default_sampling
    assert generate(other, [3]).dtype == torch.int64
    with pytest.raises(ValueError, match="head_sampler"):
        generate(other, [3], head_sampler="ddpm")


def test_the_papers_sampler_is_warned_of_where_the_preset_trims_it() -> None:
    generator = load_generator("mar-digits")
    trimmed = {**generator.default_sampling, "num_iter": 1, "head_steps": 1, "head_sampler": "ddpm-trimmed"}
    generator.default_sampling = trimmed
    with pytest.warns(SamplingWarning, match="its own is 'ddpm-trimmed'"):
        generate(generator, [3], head_sampler="ddpm")
    generate(generator, [3])
    generate(generator, [3], head_sampler="ddim")
    generator.default_sampling = {**trimmed, "head_sampler": "ddpm"}
    generate(generator, [3])
