"""The diffusers adapter on tiny random models saved in a folder: it adds the scale and nothing else."""

from __future__ import annotations

import pytest
import torch

import arbench
from arbench.tokenizer.conformance import check_tokenizer

diffusers = pytest.importorskip("diffusers", reason="the extra arbench[diffusers] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random AutoencoderKL with 1/4 of the side, 4 channels, a scale and a shift."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    path = tmp_path_factory.mktemp("vae")
    vae.save_pretrained(path)
    return path


IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
# Float32 sums in another memory layout and batch.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def test_it_is_the_model_with_its_scale(folder):
    tokenizer = arbench.load_tokenizer(f"diffusers:{folder}")
    vae = diffusers.AutoencoderKL.from_pretrained(folder)
    assert (tokenizer.kind, tokenizer.channels, tokenizer.downsample, tokenizer.scale) == ("continuous", 4, 4, 0.5)
    with torch.no_grad():
        mean = vae.encode(IMAGES).latent_dist.mean
        images = vae.decode(mean).sample
    tokens = tokenizer.encode(IMAGES)
    torch.testing.assert_close(tokens, (mean - 0.25) * 0.5, **TOLERANCE)
    torch.testing.assert_close(tokenizer.decode(tokens), images, **TOLERANCE)


def test_it_conforms(folder):
    tokenizer = arbench.load_tokenizer(f"diffusers:{folder}", scale=2.0)
    assert tokenizer.scale == 2.0
    checks = check_tokenizer(tokenizer, IMAGES, trained=False)
    assert {check.name: check.detail for check in checks if check.outcome == "failed"} == {}


def test_the_consistency_decoder(tmp_path):
    torch.manual_seed(0)
    widths = (32, 32)
    vae = diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=widths,
        encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        decoder_block_out_channels=widths,
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
    )
    vae.save_pretrained(tmp_path)
    tokenizer = arbench.load_tokenizer(f"diffusers:{tmp_path}")
    assert (tokenizer.channels, tokenizer.downsample, tokenizer.scale) == (4, 2, 0.18215)
    checks = check_tokenizer(tokenizer, IMAGES, trained=False)
    assert {check.name: check.detail for check in checks if check.outcome == "failed"} == {}


def test_other_classes_and_missing_models_are_told(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(ValueError, match="'AutoencoderTiny'; did you mean 'AutoencoderKL'"):
        arbench.load_tokenizer(f"diffusers:{tmp_path}")
    with pytest.raises(OSError, match="config"):
        arbench.load_tokenizer(f"diffusers:{tmp_path / 'absent'}")
    with pytest.raises(ValueError, match="unexpected keyword argument 'base_channels'"):
        arbench.load_tokenizer(f"diffusers:{tmp_path}", base_channels=3)
