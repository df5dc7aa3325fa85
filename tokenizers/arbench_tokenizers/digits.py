"""Two small tokenizers for 32×32 digits, 8×8 tokens: `digits-kl` (continuous) and `digits-vq` (discrete).

Both are the autoencoder of the large ones, made narrow, and learn as these do (`recipes.py`).
"""

from __future__ import annotations

from typing import Any

import torch

from arbench_tokenizers.base import KLTokenizer, VQTokenizer
from arbench_tokenizers.config import KLConfig, VQConfig
from arbench_tokenizers.recipes import DIGITS_KL, DIGITS_VQ

# Three levels, one block each, attention in the middle only.
NARROW: dict[str, Any] = {
    "base_channels": 16,
    "channel_multipliers": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "resolution": 32,
}


class DigitsKL(KLTokenizer):
    """Continuous tokenizer of 32×32 digits. Its scale is measured after training and travels with the weights."""

    name = "digits-kl"
    default = KLConfig(**NARROW, channels=4)
    recipe = DIGITS_KL

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.latent_scale = torch.tensor(self.config.scale)


class DigitsVQ(VQTokenizer):
    """Discrete tokenizer of 32×32 digits with L2-normalised codes of 8 dimensions, as LlamaGen's."""

    name = "digits-vq"
    unit_norm = True
    default = VQConfig(**NARROW, channels=16, vocab_size=256, codebook_dim=8)
    recipe = DIGITS_VQ
