"""AR: a causal generator over image tokens in raster or random order, with a categorical or a diffusion head.

The released LlamaGen models (arXiv:2406.06525) are raster and categorical; the other combinations are rows of MAR's
Table 1 (arXiv:2406.11838): AR with Diffusion Loss, and causal generation in random order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arbench.generators.ar.config import ARConfig
from arbench.generators.common.causal import CausalBackbone, CausalState
from arbench.generators.common.config import as_grid, require
from arbench.generators.common.tokens import drop_labels, patchify, take, unpatchify
from arbench.heads.categorical import CategoricalHead
from arbench.heads.diffusion import DiffusionHead
from arbench.machine.precision import into_stream
from arbench.machine.transfer import constant
from arbench.settings import CategoricalSampling, DiffusionSampling


class AR(CausalBackbone):
    """Causal generator, one token a step."""

    method = "ar"
    default_sampling: Mapping[str, Any]  # a preset's

    def __init__(self, config: ARConfig, *, parallel: int = 1) -> None:
        grid = as_grid(config.grid)
        super().__init__(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            num_classes=config.num_classes,
            grid=grid,
            parallel=parallel,
            kv_cache=config.kv_cache,
            dropout=config.dropout,
        )
        self.config = config
        self.kind = "discrete" if config.head == "categorical" else "continuous"
        self.sampling_type: type = CategoricalSampling if config.head == "categorical" else DiffusionSampling
        self.token_channels = config.channels * config.patch_size**2
        if config.head == "categorical":
            assert config.vocab_size is not None
            self.vocab_size = config.vocab_size
            self.tok_embeddings = nn.Embedding(config.vocab_size, config.width)
            self.output = CategoricalHead(config.width, config.vocab_size)
        else:
            self.channels = config.channels
            self.z_proj = nn.Linear(self.token_channels, config.width)
        if config.order == "random":
            self.target_embeddings = nn.Embedding(self.num_tokens, config.width)
        self.initialise()
        if config.head == "diffusion":
            self.diffloss = DiffusionHead(self.token_channels, config.width, config.head_width, config.head_depth)

    def draw_head(self) -> CategoricalHead | DiffusionHead:
        return self.output if self.config.head == "categorical" else self.diffloss

    @property
    def order(self) -> Tensor | None:
        """(N,) raster index of the k-th generated token; None where each image has its own order."""
        return self.order_on(torch.device("cpu")).clone() if self.config.order == "raster" else None

    def order_on(self, device: torch.device) -> Tensor:
        """`order` on a device, where there is one."""
        return constant(torch.arange, self.num_tokens, device=device)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        return self.tok_embeddings(tokens) if self.kind == "discrete" else into_stream(self.z_proj, tokens)

    def embed_targets(self, positions: Tensor) -> Tensor | None:
        return self.target_embeddings(positions) if self.config.order == "random" else None

    def empty_tokens(self, batch: int, like: Tensor) -> Tensor:
        if self.kind == "discrete":
            return torch.zeros(batch, self.num_tokens, dtype=torch.int64, device=like.device)
        return torch.zeros(batch, self.num_tokens, self.token_channels, dtype=like.dtype, device=like.device)

    def _sequence_of(self, tokens: Tensor) -> Tensor:
        """Ids (B, h, w) -> (B, N), or latents (B, C, H, W) -> (B, N, C'); raster order."""
        if self.kind == "discrete":
            require(tokens.shape[1:] == torch.Size(self.grid), f"ids {tuple(tokens.shape)}: expected (B, {self.grid})")
            return tokens.flatten(1)
        return patchify(tokens, self.config.patch_size)

    def _orders(self, batch: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        if self.config.order == "raster":
            return self.order_on(device).expand(batch, -1)
        return torch.rand(batch, self.num_tokens, generator=rng, device=device).argsort(dim=1)

    def _teacher_forced(self, tokens: Tensor, labels: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions (B, N, D) and their tokens in generation order."""
        sequence = self._sequence_of(tokens)
        ordered = sequence.gather(1, orders) if self.kind == "discrete" else take(sequence, orders)
        return self.hidden(ordered, labels, orders), ordered

    def logits(self, ids: Tensor, labels: Tensor, *, orders: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, N, V) of ids (B, h, w): row k predicts the k-th generated token from those before.

        `orders` (B, N) is needed where the order is random. Raises ValueError for a generator without a codebook.
        """
        require(self.kind == "discrete", "logits: this generator has a diffusion head; use loss")
        orders = self._orders(len(ids), None, ids.device) if orders is None else orders
        return self.output.logits(self._teacher_forced(ids, labels, orders)[0])

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Mean training loss a token of ids (B, h, w) or scaled latents (B, C, H, W); in training mode labels drop."""
        if self.training:
            labels = drop_labels(labels, self.num_classes, rng)
        orders = self._orders(len(tokens), rng, tokens.device)
        hidden, ordered = self._teacher_forced(tokens, labels, orders)
        if self.kind == "discrete":
            return self.output.loss(hidden, ordered)
        return self.diffloss.loss(hidden, ordered, rng=rng, repeats=self.config.diffusion_batch_mul)

    def result(self, state: CausalState) -> Tensor:
        """Ids (B, h, w) on the raster grid, or scaled latents (B, C, H, W)."""
        index = state.order.argsort(dim=1)
        if self.kind == "discrete":
            return state.tokens.gather(1, index).unflatten(1, self.grid)
        return unpatchify(take(state.tokens, index), self.grid, self.config.patch_size)
