"""Full-size state dicts in the releases' formats load strictly; every mismatch is told in one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from arbench_tokenizers.release import ldm_names
from safetensors.torch import save_file

import arbench

PARITY = Path(__file__).parent / "parity"
FULL_SIZE = {  # folder with the names and shapes, tokenizer, channels, codes
    "kl_mar": ("kl16", 16, None),
    "vq_taming": ("vq16", 256, 16384),
    "vq_ldm": ("vq16", 8, 16384),
    "vq_llamagen": ("llamagen-vq", 8, 16384),
}


def full_size(folder: str, *, real: bool = False) -> dict[str, torch.Tensor]:
    """A state dict of a release's names and shapes; unless `real`, one stored number stands for each tensor."""
    shapes = json.loads((PARITY / folder / "full_size.json").read_text())
    rng = torch.Generator().manual_seed(0)
    draw = (lambda shape: torch.randn(shape, generator=rng)) if real else (lambda shape: torch.ones(1).expand(shape))
    return {name: draw(shape) for name, shape in shapes.items()}


def in_release_format(folder: str, tensors: dict[str, torch.Tensor]) -> dict:
    if folder == "kl_mar":
        return {"model": tensors}
    if folder == "vq_llamagen":
        return {
            "model": tensors,
            "ema": {},
            "optimizer": {"state": {}},
            "steps": 1,
            "args": argparse.Namespace(lr=1e-4),
        }
    rest = {"loss.logvar": torch.zeros(()), "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1)}
    return {"epoch": 1, "global_step": 10, "state_dict": {**tensors, **rest}}


@pytest.mark.parametrize("folder", FULL_SIZE)
def test_full_size_loads_strictly(tmp_path, folder):
    name, channels, codes = FULL_SIZE[folder]
    torch.save(in_release_format(folder, full_size(folder)), tmp_path / "x.ckpt")
    tokenizer = arbench.load_tokenizer(name, weights=tmp_path / "x.ckpt")
    assert (tokenizer.channels, tokenizer.vocab_size, tokenizer.downsample) == (channels, codes, 16)
    assert tokenizer.config.attention_resolutions == (16,)
    assert len(tokenizer.state_dict()) == len([key for key in full_size(folder) if "codebook_used" not in key])


@pytest.mark.slow
@pytest.mark.parametrize("folder", FULL_SIZE)
def test_full_size_with_random_values(tmp_path, folder):
    tensors = full_size(folder, real=True)
    torch.save(in_release_format(folder, tensors), tmp_path / "x.ckpt")
    tokenizer = arbench.load_tokenizer(FULL_SIZE[folder][0], weights=tmp_path / "x.ckpt")
    loaded = tokenizer.state_dict()
    names = ldm_names(tensors)
    for name, tensor in tensors.items():
        if "codebook_used" not in name:
            assert torch.equal(loaded[names[name]], tensor)


@pytest.mark.parametrize("folder", FULL_SIZE)
def test_key_map_is_one_to_one(folder):
    names = ldm_names(full_size(folder))
    assert len(set(names.values())) == len(names)
    if folder != "vq_llamagen":
        assert all(name == mapped for name, mapped in names.items())


def test_llamagen_has_the_modules_of_ldm():
    """Beside the attention's place, LlamaGen's autoencoder is LDM's with other names."""
    llamagen = set(ldm_names(full_size("vq_llamagen")).values()) - {"quantize.codebook_used"}
    assert llamagen == set(full_size("vq_ldm"))


def test_a_whole_latent_diffusion_checkpoint(tmp_path):
    tensors = {f"first_stage_model.{name}": value for name, value in full_size("kl_mar").items()}
    tensors["model.diffusion_model.out.weight"] = torch.ones(3)
    torch.save({"state_dict": tensors}, tmp_path / "x.ckpt")
    assert arbench.load_tokenizer("kl16", weights=tmp_path / "x.ckpt").channels == 16


def small(folder: str = "kl_mar") -> dict[str, torch.Tensor]:
    from arbench.weights.read import read_tensors

    return read_tensors(next(path for path in (PARITY / folder).iterdir() if path.suffix in (".ckpt", ".pt"))).tensors()


def refused(tmp_path, tensors, match, name="kl16", **config):
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=match) as error:
        arbench.load_tokenizer(name, weights=tmp_path / "x.safetensors", **config)
    assert "\n" not in str(error.value)


def test_mismatches_are_told(tmp_path):
    tensors = small()
    left_over = {**tensors, "extra.weight": torch.ones(1)}
    refused(tmp_path, left_over, r"x\.safetensors: does not fit; 1 unexpected: extra\.weight")
    missing = {key: value for key, value in tensors.items() if key != "decoder.norm_out.bias"}
    refused(tmp_path, missing, r"1 missing: decoder\.norm_out\.bias")
    other_shape = {**tensors, "decoder.norm_out.bias": torch.ones(7)}
    refused(tmp_path, other_shape, r"1 of another shape: decoder\.norm_out\.bias \(7,\) instead of \(32,\)")
    no_root = {key: value for key, value in tensors.items() if key != "encoder.conv_in.weight"}
    refused(tmp_path, no_root, r"x\.safetensors: incomplete weights: encoder\.conv_in\.weight is missing")
    integers = {**tensors, "decoder.norm_out.bias": torch.ones(32, dtype=torch.int64)}
    refused(tmp_path, integers, r"decoder\.norm_out\.bias holds torch\.int64; expected floating-point")
    refused(tmp_path, {"a": torch.ones(1)}, r"weights of no known family \(a, …\)")


def test_wrong_family_and_contradictions(tmp_path):
    refused(tmp_path, small("vq_ldm"), r"holds vq16 weights; expected kl16 weights for 'kl16'")
    refused(tmp_path, small(), r"holds kl16 weights; expected llamagen-vq", name="llamagen-vq")
    refused(tmp_path, small(), r"base_channels 128 contradicts .*x\.safetensors, which has 32", base_channels=128)
    refused(tmp_path, small(), r"decoder_attention True contradicts", decoder_attention=True)
    refused(tmp_path, small("vq_ldm"), r"vocab_size 64 contradicts", name="vq16", vocab_size=64)
