"""Tokenizers by equalities: chunks and batches change nothing, codes are the nearest, wrong input is one line."""

from __future__ import annotations

import pytest
import torch
from arbench_tokenizers import base
from arbench_tokenizers.quantize import VectorQuantizer, nearest_code
from torch import nn

import arbench
from arbench.protocols import Tokenizer
from arbench.tokenizer.load import decode_tokens, encode_images
from arbench.training.tokenizer_losses import latent_terms, reconstruction_terms
from arbench.training.tokenizer_task import revive_codes

# Float32 convolutions in another blocking; measured about 1e-6 of the largest value.
BLOCKING = 1e-5


@pytest.fixture(scope="module", params=["digits-kl", "digits-vq"])
def tokenizer(request):
    return arbench.load_tokenizer(request.param)


@pytest.fixture(scope="module")
def digits():
    from arbench.images.data import open_data
    from arbench.images.pixels import to_float

    return to_float(open_data("digits", split="heldout").images(range(12)))


def test_protocol(tokenizer, digits):
    assert isinstance(tokenizer, Tokenizer)
    tokens = encode_images(tokenizer, digits)
    assert tokens.shape == ((12, 8, 8) if tokenizer.kind == "discrete" else (12, 4, 8, 8))
    assert tokens.dtype == (torch.int64 if tokenizer.kind == "discrete" else torch.float32)
    images = decode_tokens(tokenizer, tokens)
    assert images.dtype == torch.float32
    assert not images.requires_grad


def test_shipped_weights_reconstruct(tokenizer, digits):
    """The shipped weights are read: random ones reach about 5 dB."""
    error = (tokenizer.decode(tokenizer.encode(digits)) - digits).square().mean()
    assert 10 * torch.log10(4 / error) > 30
    fresh = arbench.load_tokenizer(tokenizer.name, weights="random")
    assert (fresh.decode(fresh.encode(digits)) - digits).square().mean() > 10 * error


@pytest.mark.parametrize("size", [1, 3, 5, 12])
def test_the_batch_changes_no_bit(tokenizer, digits, size):
    tokens = tokenizer.encode(digits)
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in digits.split(size)]), tokens)
    images = tokenizer.decode(tokens)
    assert torch.equal(torch.cat([tokenizer.decode(part) for part in tokens.split(size)]), images)


@pytest.mark.parametrize("pixels", [1, 3 * 32 * 32, 5 * 32 * 32])
def test_chunks_change_nothing(tokenizer, digits, monkeypatch, pixels):
    tokens = tokenizer.encode(digits)
    images = tokenizer.decode(tokens)
    monkeypatch.setattr(base, "CPU_CHUNK_PIXELS", pixels)
    found = tokenizer.encode(digits)
    if tokenizer.kind == "discrete":
        assert torch.equal(found, tokens)
    assert (found - tokens).abs().max() <= BLOCKING * tokens.abs().max()
    assert (tokenizer.decode(tokens) - images).abs().max() <= BLOCKING


def test_chunks_are_bounded(tokenizer, digits, monkeypatch):
    monkeypatch.setattr(base, "CPU_CHUNK_PIXELS", 5 * 32 * 32)
    sizes = []
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        for part in (tokenizer.encoder, tokenizer.decoder)
    ]
    tokenizer.decode(tokenizer.encode(digits))
    for hook in hooks:
        hook.remove()
    assert sizes == [5, 5, 5, 5, 5, 5]


def test_empty_batch(tokenizer):
    tokens = tokenizer.encode(torch.zeros(0, 3, 32, 32))
    assert tokenizer.decode(tokens).shape == (0, 3, 32, 32)


def test_other_sizes(tokenizer):
    assert tokenizer.decode(tokenizer.encode(torch.zeros(1, 3, 16, 24))).shape == (1, 3, 16, 24)


def test_sample_is_the_mean_plus_noise(digits):
    tokenizer = arbench.load_tokenizer("digits-kl")
    mean, std = tokenizer.moments(digits)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    sample = tokenizer.encode(digits, rng=torch.Generator().manual_seed(3))
    assert torch.equal(sample, (mean + std * noise) * tokenizer.scale)
    assert torch.equal(tokenizer.encode(digits), mean * tokenizer.scale)


def test_dtype_and_scale_travel():
    tokenizer = arbench.load_tokenizer("digits-kl", dtype=torch.float64)
    assert tokenizer.encode(torch.zeros(1, 3, 32, 32)).dtype == torch.float64
    assert tokenizer.scale == arbench.load_tokenizer("digits-kl").scale != 1
    with pytest.raises(ValueError, match=r"scale 3 contradicts .*digits-kl\.safetensors"):
        arbench.load_tokenizer("digits-kl", scale=3)


def test_weights_may_be_channels_last(tokenizer):
    weight = tokenizer.decoder.conv_out.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_random_weights_follow_the_seed():
    first, second, third = (build(seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])


def build(seed):
    torch.manual_seed(seed)
    return list(arbench.load_tokenizer("kl16", base_channels=8, channel_multipliers=(1,)).parameters())


def test_attention_where_the_config_says():
    config = {"base_channels": 8, "channel_multipliers": (1, 2), "resolution": 16, "attention_resolutions": (8,)}
    names = [n for n, _ in arbench.load_tokenizer("kl16", **config, decoder_attention=True).named_parameters()]
    assert any(n.startswith("encoder.down.1.attn") for n in names)
    assert any(n.startswith("decoder.up.1.attn") for n in names)
    assert not any(n.startswith(("encoder.down.0.attn", "decoder.up.0.attn")) for n in names)


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("kl61", {}, r"unknown tokenizer 'kl61'; did you mean 'kl16'\?"),
        ("kl16", {"base_chanels": 8}, "did you mean 'base_channels'"),
        ("kl16", {"base_channels": 0}, "base_channels is 0; expected a positive integer"),
        ("kl16", {"channel_multipliers": ()}, "expected a list of positive integers"),
        ("kl16", {"scale": float("nan")}, "scale is nan; expected a positive number"),
        ("kl16", {"decoder_attention": 1}, "expected true or false"),
        ("vq16", {"kind": "discret"}, "did you mean 'discrete'"),
        ("kl16", {"device": "cpuu"}, "unknown device 'cpuu'"),
        ("no_such_module:Thing", {}, "'no_such_module:Thing' cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes_are_one_line(name, config, match):
    with pytest.raises(ValueError, match=match) as error:
        arbench.load_tokenizer(name, **config)
    assert "\n" not in str(error.value)


def test_wrong_input_is_told(tokenizer):
    with pytest.raises(ValueError, match=r"images have shape \(1, 3, 30, 32\); expected \(B, 3, H, W\), sides of 4·n"):
        tokenizer.encode(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="images have shape"):
        tokenizer.encode(torch.zeros(1, 1, 32, 32))
    wrong = torch.zeros(1, 8, 8) if tokenizer.kind == "discrete" else torch.zeros(1, 5, 8, 8)
    with pytest.raises(ValueError, match="expected"):
        tokenizer.decode(wrong)


def test_nearest_code_is_the_first_of_equals():
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 8, generator=rng)
    codes[300] = codes[7]
    codes[499] = codes[7]
    vectors = torch.cat((codes, (codes[3] + codes[4]).view(1, 8) / 2))
    ids = nearest_code(vectors, codes)
    expected = torch.arange(500)
    expected[[300, 499]] = 7
    assert torch.equal(ids[:500], expected)
    assert ids.dtype == torch.int64


def test_nearest_code_is_exact():
    """Codes that float32 products cannot tell apart are told apart by float64 differences."""
    codes = 100 + torch.arange(64.0).view(64, 1) * 2.0**-12 + torch.zeros(64, 4)
    ids = nearest_code(codes.flip(0), codes)
    assert torch.equal(ids, torch.arange(63, -1, -1))


def test_ids_are_exact_whatever_products_are_done_in():
    """TF32 and autocast make the ranking coarse, not the answer."""
    rng = torch.Generator().manual_seed(2)
    codes = nn.functional.normalize(torch.randn(512, 8, generator=rng), dim=1)
    vectors = nn.functional.normalize(torch.randn(64, 8, generator=rng), dim=1)
    expected = nearest_code(vectors, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_code(vectors, codes), expected)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(nearest_code(vectors, codes), expected)
    finally:
        torch.set_float32_matmul_precision(before)
    distances = (vectors.double().unsqueeze(1) - codes.double()).square().sum(2)
    assert torch.equal(distances.argmin(1), expected)


def test_midpoint_takes_the_lower_id():
    quantizer = VectorQuantizer(4, 1)
    quantizer.embedding.weight.data = torch.tensor([[1.0], [-1.0], [3.0], [1.0]])
    latents = torch.tensor([0.0, 2.0, 1.0, -5.0]).view(1, 1, 2, 2)
    assert quantizer(latents).flatten().tolist() == [0, 0, 0, 1]


def test_ids_do_not_depend_on_the_batch():
    rng = torch.Generator().manual_seed(1)
    codes = nn.functional.normalize(torch.randn(2048, 8, generator=rng), dim=1)
    vectors = nn.functional.normalize(torch.randn(300, 8, generator=rng), dim=1)
    alone = torch.cat([nearest_code(vector.view(1, 8), codes) for vector in vectors])
    assert torch.equal(nearest_code(vectors, codes), alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_latent_that_is_no_number_is_an_error(bad):
    tokenizer = arbench.load_tokenizer("digits-vq")
    latents = torch.zeros(2, 8, 8, 8)
    latents[1, 3, 2, 2] = bad
    with pytest.raises(ValueError, match="latents to quantise: 1 of 1024 values are not finite"):
        tokenizer.quantize(latents)


def test_ids_outside_the_codebook_are_an_error():
    tokenizer = arbench.load_tokenizer("digits-vq")
    for ids in (torch.full((1, 8, 8), 256), torch.full((1, 8, 8), -1)):
        with pytest.raises(ValueError, match="expected 0 to 255"):
            tokenizer.decode(ids)


def test_training_losses_reach_every_parameter(digits):
    for name in ("digits-kl", "digits-vq"):
        tokenizer = arbench.load_tokenizer(name, weights="random")
        found = tokenizer.training_pass(digits, torch.Generator().manual_seed(0))
        loss, terms = reconstruction_terms(found, digits, tokenizer.recipe.losses, None)
        (loss + latent_terms(found, tokenizer.recipe.losses)[0]).backward()
        assert loss.ndim == 0
        assert terms["reconstruction"] > 0
        assert all(parameter.grad is not None for parameter in tokenizer.parameters())


def test_revived_codes_are_used(digits):
    tokenizer = arbench.load_tokenizer("digits-vq", weights="random")
    before = len(tokenizer.encode(digits).unique())
    assert revive_codes(tokenizer, digits, torch.Generator().manual_seed(0)) == 256 - before
    assert len(tokenizer.encode(digits).unique()) > before
