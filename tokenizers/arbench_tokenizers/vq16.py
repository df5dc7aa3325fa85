"""VQ-16: taming's `vqgan_imagenet_f16_16384` (arXiv:2012.09841) and LDM's `vq-f16` (arXiv:2112.10752)."""

from __future__ import annotations

from arbench_tokenizers import recipes
from arbench_tokenizers.base import VQTokenizer
from arbench_tokenizers.config import VQConfig


class VQ16(VQTokenizer):
    """16,384 codes at 1/16 of the side, the nearest by Euclidean distance."""

    name = "vq16"
    default = VQConfig()
    recipe = recipes.VQ16
