"""`diffusers:ID`: any AutoencoderKL of Hugging Face's diffusers, or OpenAI's consistency decoder, as a tokenizer.

MAR's Table 2 has both (KL-8 and Consistency); its 2×2 grouping of their tokens is the generator's `patch_size`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arbench.registry import unknown_name
from arbench_tokenizers.base import in_chunks, normal_like

CLASSES = ("AutoencoderKL", "ConsistencyDecoderVAE")
DECODER_SEED = 0  # the consistency decoder starts from noise; every image gets the same, whatever its batch


class DiffusersVAE(nn.Module):
    """A diffusers autoencoder: tokens are (latents − shift) · scale, with the model's own shift and scale."""

    kind = "continuous"
    vocab_size: int | None = None

    def __init__(self, vae: Any, name: str, scale: float | None = None) -> None:
        """`vae` is a diffusers AutoencoderKL or ConsistencyDecoderVAE; `scale` replaces its own factor."""
        super().__init__()
        self.vae = vae
        self.name = name
        self.is_consistency = type(vae).__name__ == "ConsistencyDecoderVAE"
        config = vae.config
        widths = config.encoder_block_out_channels if self.is_consistency else config.block_out_channels
        self.channels = int(config.latent_channels)
        self.downsample = 2 ** (len(widths) - 1)
        self.scale = float(scale if scale is not None else config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)

    @classmethod
    def from_id(cls, model_id: str, *, subfolder: str | None = None, scale: float | None = None) -> DiffusersVAE:
        """The model of a local folder or of a Hugging Face repository, in `subfolder` of a whole pipeline's.

        Raises ValueError where diffusers is missing or the model is of another class, OSError where it is not found.
        """
        try:
            import diffusers
        except ImportError as error:
            raise ValueError(f"diffusers:{model_id} needs diffusers: pip install 'arbench[diffusers]'") from error
        place = {} if subfolder is None else {"subfolder": subfolder}
        kind = diffusers.AutoencoderKL.load_config(model_id, **place).get("_class_name")
        if kind not in CLASSES:
            raise unknown_name(f"class of diffusers:{model_id}", str(kind), CLASSES)
        vae = getattr(diffusers, kind).from_pretrained(model_id, **place)
        return cls(vae, f"diffusers:{model_id}", scale)

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of images (B, 3, H, W) in [-1, 1]: unscaled mean and deviation, each (B, C, h, w)."""
        weight = next(self.vae.parameters())
        both = in_chunks(self._encode_chunk, images, images.shape[2] * images.shape[3], weight)
        mean, std = both.chunk(2, dim=1)
        return mean, std

    def _encode_chunk(self, images: Tensor) -> Tensor:
        posterior = self.vae.encode(images).latent_dist
        return torch.cat((posterior.mean, posterior.std), dim=1)

    @torch.no_grad()
    def encode(self, images: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w): the mean, or a sample drawn with `rng`."""
        mean, std = self.moments(images)
        return ((mean if rng is None else mean + std * normal_like(mean, rng)) - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> images (B, 3, H, W), about [-1, 1]."""
        pixels = tokens.shape[2] * tokens.shape[3] * self.downsample**2
        return in_chunks(self._decode_chunk, tokens, pixels, next(self.vae.parameters()))

    def _decode_chunk(self, tokens: Tensor) -> Tensor:
        latents = tokens / self.scale + self.shift
        if not self.is_consistency:
            return self.vae.decode(latents).sample
        noises = [torch.Generator().manual_seed(DECODER_SEED) for _ in latents]
        return self.vae.decode(latents, generator=noises).sample
