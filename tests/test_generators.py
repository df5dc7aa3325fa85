"""Generators against the recorded outputs of the originals, and against themselves written plainly."""

import pytest
import torch
from conftest import COMBINATIONS, Parity, make_generator, make_tokens, relative_error
from scipy import stats
from torch.nn import functional as F

from arbench.generators.ar.config import ARConfig
from arbench.generators.ar.model import AR
from arbench.generators.common.causal import group_mask
from arbench.generators.common.layers import rotary_table, swiglu_width
from arbench.generators.common.tokens import latent_size, patchify, unpatchify
from arbench.generators.mar.config import MARConfig
from arbench.generators.mar.model import MAR, truncated_normal
from arbench.generators.par.config import PARConfig
from arbench.generators.par.model import PAR
from arbench.heads.schedule import Diffusion
from arbench.heads.variational import noise_and_variance_loss
from arbench.sampling.algorithm import generate
from arbench.sampling.noise import FixedNoise
from arbench.weights.read import read_tensors

PARITY_ERROR = 1e-4  # float32 against float32 of another implementation: sums in another order
GENERATION_ERROR = 1e-3  # the same carried through hundreds of dependent steps
AR_FOLDERS = ("ar", "par4", "par16")
MAR_FOLDERS = ("mar", "mar_patch2")


def load_ar(folder: Parity) -> AR:
    config = dict(folder.meta["config"])
    parallel = config.pop("parallel")
    model = AR(ARConfig(**config)) if parallel == 1 else PAR(PARConfig(**config, parallel=parallel))
    state = read_tensors(folder.folder / "model.pt").tensors()
    state.pop("freqs_cis", None)
    model.load_state_dict(state)
    return model.eval()


def load_mar(folder: Parity) -> MAR:
    recorded = folder.meta["config"]
    sizes = {
        f"{part}_{name}": value for part in ("encoder", "decoder", "head") for name, value in recorded[part].items()
    }
    model = MAR(
        MARConfig(
            **sizes,
            num_classes=recorded["num_classes"],
            grid=recorded["img_size"] // recorded["vae_stride"] // recorded["patch_size"],
            buffer_size=recorded["buffer_size"],
            channels=recorded["vae_embed_dim"],
            patch_size=recorded["patch_size"],
        )
    )
    model.load_state_dict(read_tensors(folder.folder / "checkpoint-last.pth").tensors("ema"))
    return model.eval()


@pytest.mark.parametrize("name", AR_FOLDERS)
def test_causal_logits_loss_and_order(name: str) -> None:
    folder = Parity(name)
    model, expected = load_ar(folder), folder.expected
    order = expected.get("order", torch.arange(64))
    assert torch.equal(model.order, order)
    ids = expected["ids"][:, order.argsort()].unflatten(1, model.grid)
    logits = model.logits(ids, expected["labels"])
    assert logits.dtype == torch.float32
    assert relative_error(logits, expected["logits"]) < PARITY_ERROR
    assert relative_error(model.loss(ids, expected["labels"])[None], expected["loss"]) < PARITY_ERROR


@pytest.mark.parametrize("name", AR_FOLDERS)
@pytest.mark.parametrize("run", ["greedy_cfg1", "greedy_cfg2", "greedy_cfg4_interval10"])
def test_causal_greedy_ids(name: str, run: str) -> None:
    folder = Parity(name)
    model = load_ar(folder)
    settings = {key: folder.meta["runs"][run][key] for key in ("cfg_scale", "cfg_interval", "top_k", "top_p")}
    ids = generate(model, folder.expected["labels"], temperature=0.0, **settings)
    assert torch.equal(ids.flatten(1)[:, model.order], folder.expected[f"{run}.ids"])


@pytest.mark.parametrize("name", MAR_FOLDERS)
def test_masked_conditions_head_and_loss(name: str) -> None:
    folder = Parity(name)
    model, expected = load_mar(folder), folder.expected
    latents, mask, labels = expected["latents"], expected["mask"], expected["labels"]
    z = model.condition(latents, mask, labels)
    nobody = torch.full_like(labels, model.num_classes)
    assert relative_error(z, expected["z"]) < PARITY_ERROR
    assert relative_error(model.condition(latents, mask, nobody), expected["z_uncond"]) < PARITY_ERROR
    out = model.head(expected["head_x"], expected["head_t"], expected["head_z"])
    assert relative_error(out, expected["head_out"]) < PARITY_ERROR
    tokens = expected["tokens"].flatten(0, 1)
    rows = noise_and_variance_loss(
        model.diffloss.net, Diffusion.cosine(), tokens, expected["loss_t"], expected["loss_noise"], z.flatten(0, 1)
    )
    loss = (rows * mask.flatten()).sum() / mask.sum()
    assert relative_error(loss[None], expected["loss"]) < PARITY_ERROR


@pytest.mark.parametrize("name", MAR_FOLDERS)
@pytest.mark.parametrize("run", ["gen_cfg_linear", "gen_cfg_constant", "gen_nocfg"])
def test_masked_generations(name: str, run: str) -> None:
    folder = Parity(name)
    settings = dict(folder.meta["runs"][run])
    settings.pop("std")
    settings["cfg_scale"] = settings.pop("cfg")
    noise = FixedNoise(orders=folder.expected[f"{run}.orders"], gaussian=folder.expected[f"{run}.noise"])
    latents = generate(load_mar(folder), folder.expected["labels"], noise=noise, **settings)
    assert relative_error(latents, folder.expected[f"{run}.latents"]) < GENERATION_ERROR


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("head", ["categorical", "diffusion"])
def test_every_combination_trains_and_samples(name: str, head: str) -> None:
    model = make_generator(name, head)
    tokens, labels = make_tokens(model), torch.tensor([0, 4, 2])
    model.train()
    loss = model.loss(tokens, labels, rng=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    few = {"head_steps": 3} if head == "diffusion" else {}
    assert generate(model, labels, cfg_scale=1.5, **few).shape == tokens.shape
    assert generate(model, labels, **few).dtype == tokens.dtype


def test_one_token_a_step_equals_the_causal_generator() -> None:
    ar, par = make_generator("ar-raster"), make_generator("par", parallel=1)
    par.load_state_dict(ar.state_dict())
    ids, labels = make_tokens(ar), torch.tensor([0, 1, 5])
    assert torch.equal(ar.logits(ids, labels), par.logits(ids, labels))
    for settings in ({"temperature": 0.0}, {"cfg_scale": 2.0, "top_k": 5}, {"cfg_scale": 3.0, "cfg_interval": 4}):
        assert torch.equal(generate(ar, labels, **settings), generate(par, labels, **settings))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ar-raster", {}),
        ("ar-random", {}),
        ("par", {}),
        ("par", {"group_attention": False}),
        ("par", {"group_order": "raster"}),
        ("par", {"sequential_start": False}),
        ("par", {"sequential_start": False, "group_attention": False}),
        ("par", {"parallel": 1, "regions": 4}),
    ],
)
def test_cached_steps_equal_whole_sequences(name: str, changes: dict[str, object]) -> None:
    model = make_generator(name, **changes).double()
    labels = torch.tensor([0, 3])
    orders = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    noise = FixedNoise(orders=orders)
    ids = generate(model, labels, temperature=0.0, noise=noise)
    used = orders if model.order is None else model.order.expand(2, -1)
    kept = model.logits(ids, labels, orders=used).argmax(-1)
    assert torch.equal(kept, ids.flatten(1).gather(1, used))


def test_distant_tokens_one_by_one_are_raster_tokens_in_another_order() -> None:
    """With one token a step only the order tells PAR from AR."""
    raster, distant = make_generator("ar-raster"), make_generator("par", parallel=1, regions=4)
    distant.load_state_dict(raster.state_dict())
    assert torch.equal(distant.order, make_generator("par", parallel=4).order)
    ids, labels = make_tokens(raster), torch.tensor([0, 1, 5])
    in_order = raster._teacher_forced(ids, labels, distant.order.expand(3, -1))[0]
    assert torch.equal(raster.output.logits(in_order), distant.logits(ids, labels))


def test_a_group_drawn_at_the_start_sees_the_class_alone() -> None:
    """The first n tokens depend on the class and the learnable tokens, not on one another."""
    model, labels = make_generator("par", sequential_start=False), torch.tensor([0, 3, 2])
    ids = make_tokens(model)
    others = (ids + 1) % model.vocab_size
    first = model.parallel
    assert torch.equal(model.logits(ids, labels)[:, :first], model.logits(others, labels)[:, :first])
    assert not torch.equal(model.logits(ids, labels)[:, first:], model.logits(others, labels)[:, first:])


def test_mask_of_groups() -> None:
    mask = group_mask(9, 3, singles=3)
    assert mask[:, 0].all()
    assert mask[3:6, 3:6].all()
    assert mask[6:9, 3:9].all()
    assert not mask[:3].triu(1).any()
    assert not mask[3:6, 6:].any()
    from_the_start = group_mask(6, 3, singles=0)
    assert from_the_start[:3, :3].all()
    assert not from_the_start[:3, 3:].any()
    assert torch.equal(group_mask(9, 3, 3, full_attention=False), torch.ones(9, 9, dtype=torch.bool).tril())


def test_masked_conditions_equal_a_plain_forward() -> None:
    """The gathers, the skipped rows of the last block and the scatter, against the paper's steps on full tensors."""
    model = make_generator("mar", "diffusion").double()
    latents, labels = make_tokens(model).double(), torch.tensor([0, 1, 5])
    rng = torch.Generator().manual_seed(1)
    order = torch.rand(3, 16, generator=rng).argsort(dim=1)
    mask = torch.zeros(3, 16).scatter(1, order[:, :10], 1.0)
    found = model.condition(latents, mask, labels)
    rows = []
    for image in range(3):
        known = (mask[image] == 0).nonzero().flatten()
        embedding = model.fake_latent[0] if labels[image] == 5 else model.class_emb.weight[labels[image]]
        tokens = patchify(latents, 1)[image, known]
        x = torch.cat((embedding.expand(3, -1), model.z_proj(tokens)))
        places = torch.cat((torch.arange(3), 3 + known))
        x = model.z_proj_ln(x + model.encoder_pos_embed_learned[0, places])[None]
        for block in model.encoder_blocks:
            x = block(x)
        x = model.decoder_embed(model.encoder_norm(x))[0]
        full = model.mask_token[0].repeat(19, 1)
        full[places] = x
        full = (full + model.decoder_pos_embed_learned[0])[None]
        for block in model.decoder_blocks:
            full = block(full)
        rows.append(model.decoder_norm(full)[0, 3:] + model.diffusion_pos_embed_learned[0])
    assert relative_error(found, torch.stack(rows)) < 1e-12  # float64, same sums


def test_images_must_hide_the_same_number_of_tokens() -> None:
    model = make_generator("mar", "diffusion")
    mask = torch.ones(2, 16)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="one count a batch"):
        model.condition(make_tokens(model, 2), mask, torch.tensor([0, 1]))


def test_patches_are_channel_major_and_invertible() -> None:
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[0, 0], latents[0, :, :2, :2].flatten())
    assert torch.equal(unpatchify(tokens, (2, 3), 2), latents)
    assert latent_size(make_generator("mar", "diffusion", grid=(2, 3), patch_size=2)) == (4, 6)
    assert latent_size(make_generator("ar-raster", grid=(2, 3), patch_size=2)) == (2, 3)  # a code is one place


def test_mask_ratios_are_the_truncated_normal() -> None:
    for deviation, low in ((0.25, 0.7), (0.5, 0.02)):
        for chance in (0.0, 0.1, 0.5, 0.999):
            expected = stats.truncnorm.ppf(chance, (low - 1) / deviation, 0, loc=1, scale=deviation)
            assert truncated_normal(chance, deviation, low) == pytest.approx(expected, abs=1e-9)


def test_rotary_table_and_widths() -> None:
    table = rotary_table((2, 3), 8)
    assert table.shape == (7, 4, 2)
    assert not table[0].any()
    angle = torch.atan2(table[1 + 5, :, 1], table[1 + 5, :, 0])  # row 1, column 2
    torch.testing.assert_close(angle, torch.tensor([1.0, 0.01, 2.0, 0.02], dtype=torch.float64))
    assert [swiglu_width(width) for width in (768, 1024, 1280, 1536, 3200)] == [2048, 2816, 3584, 4096, 8704]


def test_labels_drop_in_training_only() -> None:
    model = make_generator("ar-raster")
    ids, labels = make_tokens(model, 64), torch.zeros(64, dtype=torch.int64)
    nobody = torch.full_like(labels, model.num_classes)
    evaluated = model.loss(ids, labels)
    assert torch.equal(evaluated, model.loss(ids, labels))
    model.train()
    trained = model.loss(ids, labels, rng=torch.Generator().manual_seed(0))
    assert not torch.equal(trained, evaluated)
    assert torch.equal(model.loss(ids, nobody), model.eval().loss(ids, nobody))
    expected = F.cross_entropy(model.logits(ids, labels).flatten(0, 1), ids.flatten())
    torch.testing.assert_close(evaluated, expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 30}, "not a multiple of heads"),
        ({"width": 12, "heads": 2}, "rotary"),
        ({"grid": 0}, "grid"),
        ({"order": "rastre"}, "did you mean 'raster'"),
        ({"head": "categoric"}, "did you mean 'categorical'"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_impossible_shapes_are_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ARConfig(**({"width": 32, "depth": 1, "heads": 4} | config))


def test_impossible_groups_are_named() -> None:
    for parallel in (3, 32, 0):
        with pytest.raises(ValueError, match="parallel"):
            PARConfig(width=32, depth=1, heads=2, grid=4, parallel=parallel)
