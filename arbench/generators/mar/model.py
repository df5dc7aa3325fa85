"""MAR: masked autoregression over continuous tokens with Diffusion Loss (arXiv:2406.11838), or over codes with
cross-entropy (the paper's Table 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from arbench.generators.common.config import as_grid, require
from arbench.generators.common.masked import MaskedBackbone, MaskedState, rows_at
from arbench.generators.common.tokens import drop_labels, patchify, unpatchify
from arbench.generators.mar.config import MARConfig
from arbench.heads.categorical import CategoricalHead
from arbench.heads.diffusion import DiffusionHead
from arbench.machine.randomness import on_host
from arbench.settings import MaskedCategoricalSampling, MaskedDiffusionSampling


def truncated_normal(chance: float, deviation: float, low: float) -> float:
    """The value below which a normal around 1, truncated to [low, 1], lies with probability `chance`."""
    normal = NormalDist(1, deviation)
    mass_below = normal.cdf(low)
    return min(1.0, max(low, normal.inv_cdf(mass_below + chance * (0.5 - mass_below)))) if chance > 0 else low


class MAR(MaskedBackbone):
    """Masked generator: random order, a set of tokens a step."""

    method = "mar"
    default_sampling: Mapping[str, Any]  # a preset's

    def __init__(self, config: MARConfig) -> None:
        super().__init__(
            encoder=(config.encoder_width, config.encoder_depth, config.encoder_heads),
            decoder=(config.decoder_width, config.decoder_depth, config.decoder_heads),
            num_classes=config.num_classes,
            grid=as_grid(config.grid),
            buffer_size=config.buffer_size,
            dropout=config.dropout,
        )
        self.config = config
        self.token_channels = config.channels * config.patch_size**2
        if config.head == "diffusion":
            self.kind, self.sampling_type = "continuous", MaskedDiffusionSampling
            self.channels = config.channels
            self.z_proj = nn.Linear(self.token_channels, config.encoder_width)
        else:
            assert config.vocab_size is not None
            self.kind, self.sampling_type = "discrete", MaskedCategoricalSampling
            self.vocab_size = config.vocab_size
            self.tok_embeddings = nn.Embedding(config.vocab_size, config.encoder_width)
            self.output = CategoricalHead(config.decoder_width, config.vocab_size)
        self.initialise()
        if config.head == "diffusion":
            self.diffloss = DiffusionHead(
                self.token_channels, config.decoder_width, config.head_width, config.head_depth
            )

    # Declared for the type checker: which one exists depends on the head.
    sampling_type: type

    def draw_head(self) -> CategoricalHead | DiffusionHead:
        return self.diffloss if self.kind == "continuous" else self.output

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        return self.z_proj(tokens) if self.kind == "continuous" else self.tok_embeddings(tokens)

    def empty_tokens(self, batch: int) -> Tensor:
        like = self.fake_latent
        if self.kind == "discrete":
            return torch.zeros(batch, self.num_tokens, dtype=torch.int64, device=like.device)
        return torch.zeros(batch, self.num_tokens, self.token_channels, dtype=like.dtype, device=like.device)

    def _raster_tokens(self, tokens: Tensor) -> Tensor:
        """Latents (B, C, H, W) -> (B, N, C'), or ids (B, h, w) -> (B, N)."""
        return patchify(tokens, self.config.patch_size) if self.kind == "continuous" else tokens.flatten(1)

    def condition(self, latents: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Scaled latents (B, C, H, W) or ids (B, h, w), mask (B, N) with 1 = hidden, labels (B,) -> z (B, N, D).

        Raises ValueError where the images hide different numbers of tokens.
        """
        return self.condition_on(self._raster_tokens(latents), mask, labels)

    def head(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Noisy tokens (M, C'), timesteps (M,), conditions (M, D) -> (M, 2C'): noise, then variance channels."""
        require(self.kind == "continuous", "head: this generator has a categorical head")
        return self.diffloss.net(x, t, z)

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Loss over the hidden tokens of latents (B, C, H, W) or ids (B, h, w); labels drop in training mode."""
        if self.training:
            labels = drop_labels(labels, self.num_classes, rng)
        tokens = self._raster_tokens(tokens)
        order = torch.rand(tokens.shape[:2], generator=rng, device=tokens.device).argsort(dim=1)
        num_hidden = self._num_hidden(rng)
        hidden, known = order[:, :num_hidden], order[:, num_hidden:]
        z = self.decode(self.encode(rows_at(tokens, known), known, labels), known, hidden)
        targets = rows_at(tokens, hidden)
        if self.kind == "continuous":
            return self.diffloss.loss(z, targets, rng=rng, repeats=self.config.diffusion_batch_mul)
        return self.output.loss(z, targets)

    def _num_hidden(self, rng: torch.Generator | None) -> int:
        """How many tokens of the batch are hidden: one truncated normal ratio, rounded up."""
        chance = float(torch.rand((), generator=on_host(rng)))
        ratio = truncated_normal(chance, self.config.mask_ratio_deviation, self.config.min_mask_ratio)
        return max(1, math.ceil(self.num_tokens * ratio))

    def result(self, state: MaskedState) -> Tensor:
        """Scaled latents (B, C, H, W), or ids (B, h, w)."""
        if self.kind == "continuous":
            return unpatchify(state.tokens, self.grid, self.config.patch_size)
        return state.tokens.unflatten(1, self.grid)
