"""Two small tokenizers for 32×32 digits, 8×8 tokens: `digits-kl` (continuous) and `digits-vq` (discrete).

Both are the autoencoder of the large ones, made narrow; both learn by `training_loss`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from arbench_tokenizers.base import KLTokenizer, VQTokenizer, normal_like, split_moments
from arbench_tokenizers.config import KLConfig, VQConfig

KL_WEIGHT = 4e-6  # on the KL summed over an image's latents, beside a mean squared error: LDM's order of size
COMMITMENT = 0.25  # VQ-VAE (arXiv:1711.00937), equation 3; also LlamaGen's

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
    latent_scale: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("latent_scale", torch.tensor(self.config.scale))

    @classmethod
    def told_besides(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"scale": tensors["latent_scale"].item()} if "latent_scale" in tensors else {}

    @property
    def scale(self) -> float:
        """Factor that brings the latents to unit deviation."""
        return float(self.latent_scale)

    def set_scale(self, scale: float) -> None:
        """Store the factor, usually 1 / standard deviation of the training set's latents."""
        self.latent_scale.fill_(scale)

    def training_loss(self, images: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, dict[str, float]]:
        """Loss of images (B, 3, 32, 32) in [-1, 1]: mean squared error plus a small KL to the unit Gaussian."""
        mean, std = split_moments(self.encode_raw(images))
        noise = torch.randn_like(mean) if rng is None else normal_like(mean, rng)
        reconstruction = F.mse_loss(self.decode_raw(mean + std * noise), images)
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(dim=(1, 2, 3)).mean()
        loss = reconstruction + KL_WEIGHT * divergence
        return loss, {"reconstruction": reconstruction.item(), "kl": divergence.item()}


class DigitsVQ(VQTokenizer):
    """Discrete tokenizer of 32×32 digits with L2-normalised codes of 8 dimensions, as LlamaGen's."""

    name = "digits-vq"
    unit_norm = True
    default = VQConfig(**NARROW, channels=16, vocab_size=256, codebook_dim=8)

    def training_loss(self, images: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, dict[str, float]]:
        """Loss of images (B, 3, 32, 32) in [-1, 1]: squared error, codebook and commitment terms (VQ-VAE, equation 3).

        Gradients pass the quantiser straight through. `rng` is accepted for the common signature; nothing is drawn.
        """
        latents = self.quantize.normalize(self.encode_raw(images))
        ids = self.quantize(latents)
        codes = self.quantize.lookup(ids)
        reconstruction = F.mse_loss(self.decode_raw(latents + (codes - latents).detach()), images)
        codebook = F.mse_loss(codes, latents.detach())
        commitment = F.mse_loss(latents, codes.detach())
        loss = reconstruction + codebook + COMMITMENT * commitment
        used = len(ids.unique()) / self.quantize.embedding.num_embeddings
        return loss, {"reconstruction": reconstruction.item(), "codebook": codebook.item(), "codes_used": used}

    @torch.no_grad()
    def revive_codes(self, images: Tensor, rng: torch.Generator) -> int:
        """Move every code that `images` (B, 3, 32, 32) never use onto one of their latents; return how many moved."""
        latents = self.quantize.normalize(self.encode_raw(images))
        weight = self.quantize.embedding.weight
        counts = self.quantize(latents).flatten().bincount(minlength=len(weight))
        dead = (counts == 0).nonzero().flatten()
        vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B, D, h, w) -> (B h w, D)
        chosen = torch.randint(len(vectors), (len(dead),), generator=rng, device=rng.device).to(vectors.device)
        weight[dead] = vectors[chosen]
        return len(dead)
