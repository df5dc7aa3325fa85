"""The released tokenizers compute what the original implementations computed, at full batch and image by image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import arbench

PARITY = Path(__file__).parent / "parity"
FOLDERS = {
    "kl_mar": ("kl16", "kl16.ckpt"),
    "kl_ldm": ("kl16", "model.ckpt"),
    "vq_taming": ("vq16", "last.ckpt"),
    "vq_ldm": ("vq16", "last.ckpt"),
    "vq_llamagen": ("llamagen-vq", "vq_ds16_c2i.pt"),
}
BATCHES = {"both": slice(0, 2), "first": slice(0, 1), "second": slice(1, 2)}
# Float32 sums in another order: measured at most 3e-6 here; 1e-4 is what a released model has to meet.
TOLERANCE = 1e-4


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype == torch.float32
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.fixture(scope="module", params=FOLDERS)
def released(request):
    """A tokenizer loaded from its release's file, and the original's inputs and outputs."""
    name, file = FOLDERS[request.param]
    folder = PARITY / request.param
    return arbench.load_tokenizer(name, weights=folder / file), load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_matches_the_original(released, batch):
    tokenizer, expected = released
    expected = {name: value[batch] for name, value in expected.items()}
    if tokenizer.kind == "continuous":
        check_kl(tokenizer, expected)
    else:
        check_vq(tokenizer, expected)


def check_kl(tokenizer, expected):
    mean, std = tokenizer.moments(expected["images"])
    close(mean, expected["mean"])
    close(std, expected["std"])
    close(tokenizer.encode(expected["images"]), expected["mean"] * tokenizer.scale)
    close(tokenizer.decode(expected["mean"] * tokenizer.scale), expected["decoded"])
    if "noise" in expected:
        close((mean + std * expected["noise"]) * tokenizer.scale, expected["scaled_sample"])
        close(tokenizer.decode(expected["scaled_sample"]), expected["decoded_scaled"])


def check_vq(tokenizer, expected):
    latents = tokenizer.latents(expected["images"])
    close(latents, expected["pre_quant"])
    for ids in (tokenizer.quantize(latents), tokenizer.quantize(expected["pre_quant"])):
        assert ids.dtype == torch.int64
        assert torch.equal(ids, expected["ids"])
    assert torch.equal(tokenizer.encode(expected["images"]), expected["ids"])
    close(tokenizer.lookup(expected["ids"]), expected["quant"])
    close(tokenizer.decode(expected["ids"]), expected["decoded"])


def test_continuous_vq_gives_the_latents_before_quantisation():
    """MAR's Table 2 uses VQ-16 so: tokens are latents, quantised inside `decode`."""
    folder = PARITY / "vq_ldm"
    expected = load_file(folder / "expected.safetensors")
    tokenizer = arbench.load_tokenizer("vq16", weights=folder / "last.ckpt", kind="continuous", scale=0.5)
    assert (tokenizer.kind, tokenizer.channels) == ("continuous", 8)
    tokens = tokenizer.encode(expected["images"])
    close(tokens, 0.5 * expected["pre_quant"])
    close(tokenizer.decode(tokens), expected["decoded"])


def test_architecture_is_read_off_the_tensors():
    mar, ldm = (arbench.load_tokenizer("kl16", weights=PARITY / d / FOLDERS[d][1]).config for d in ("kl_mar", "kl_ldm"))
    assert (mar.decoder_attention, ldm.decoder_attention) == (False, True)
    for config in (mar, ldm):
        assert (config.base_channels, config.channel_multipliers, config.num_res_blocks) == (32, (1, 2), 2)
        assert (config.channels, config.downsample, config.attends(0), config.attends(1)) == (16, 2, False, True)
    same = arbench.load_tokenizer(
        "kl16", weights=PARITY / "kl_mar" / "kl16.ckpt", base_channels=32, resolution=32, attention_resolutions=[16]
    )
    assert same.config.attention_resolutions == (16,)


def test_llamagen_codes_are_unit_vectors():
    tokenizer = arbench.load_tokenizer("llamagen-vq", weights=PARITY / "vq_llamagen" / "vq_ds16_c2i.pt")
    norms = tokenizer.lookup(torch.arange(96).view(1, 8, 12)).norm(dim=1)
    # one rounding of float32 in the norm and one in the division
    assert torch.allclose(norms, torch.ones_like(norms), atol=4 * torch.finfo(torch.float32).eps)
