"""KL-16: the continuous tokenizer of MAR (`kl16.ckpt`), and LDM's own kl-f16 with attention in its decoder."""

from __future__ import annotations

from arbench_tokenizers import recipes
from arbench_tokenizers.base import KLTokenizer
from arbench_tokenizers.config import KLConfig

KL16_SCALE = 0.2325  # 1 / standard deviation of KL-16 latents on ImageNet, MAR release


class KL16(KLTokenizer):
    """16 latent channels at 1/16 of the side (arXiv:2112.10752; MAR, arXiv:2406.11838, section 4)."""

    name = "kl16"
    default = KLConfig(decoder_attention=False, scale=KL16_SCALE)
    recipe = recipes.KL16
