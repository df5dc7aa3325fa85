"""MaskGIT's transformer: bidirectional over the class and all tokens, of which some are hidden (section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arbench.generators.common.config import as_grid
from arbench.generators.common.layers import ViTBlock
from arbench.generators.common.tokens import drop_labels
from arbench.heads.categorical import CategoricalHead
from arbench.protocols import Step
from arbench_maskgit.config import MaskGITConfig, MaskGITSampling

INIT_STD = 0.02


@dataclass
class State:
    """A generation under way; labels hold the images, then once more the images unconditionally where guided."""

    labels: Tensor  # (R,)
    codes: Tensor  # (B, N) on the raster grid, `vocab_size` where hidden


class MaskGIT(nn.Module):
    """Codes with holes and a class to logits at every hole."""

    method, kind, sampling_type = "maskgit", "discrete", MaskGITSampling

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config, self.grid, self.num_classes = config, as_grid(config.grid), config.num_classes
        self.vocab_size, self.num_tokens = config.vocab_size, math.prod(self.grid)
        self.default_sampling: Mapping[str, Any] = {}
        self.codes = nn.Embedding(config.vocab_size + 1, config.width)  # the last is a hidden token
        self.classes = nn.Embedding(config.num_classes + 1, config.width)  # the last is "unconditional"
        self.places = nn.Parameter(torch.empty(1, 1 + self.num_tokens, config.width))
        self.blocks = nn.ModuleList(ViTBlock(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.output = CategoricalHead(config.width, config.vocab_size)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of deviation 0.02, zero biases."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(self, codes: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        """Codes (B, N), `vocab_size` where hidden, labels (B,), raster places (B, n) -> conditions (B, n, D)."""
        x = torch.cat((self.classes(labels)[:, None], self.codes(codes)), dim=1) + self.places
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, 1 + wanted))  # of the last block only these rows are read

    def draw_head(self) -> CategoricalHead:
        return self.output

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> State:
        """Nothing revealed; which is told by `reveal`, so the order is of no matter."""
        rows = torch.cat((labels, torch.full_like(labels, self.num_classes))) if guided else labels
        return State(labels=rows, codes=torch.full_like(reveal_order, self.vocab_size))

    def conditions(self, state: State, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Conditions (B, n, D) of all hidden places, with the class and, where guided, without."""
        images = len(state.codes)
        if not guided:
            state.labels = state.labels[:images]
        copies = len(state.labels) // images
        x = self.hidden(state.codes.repeat(copies, 1), state.labels, step.positions.repeat(copies, 1))
        return (x[:images], x[images:]) if guided else (x, None)

    def reveal(self, state: State, step: Step, tokens: Tensor) -> None:
        """Put the chosen codes (B, n) at their places."""
        state.codes.scatter_(1, step.positions, tokens)

    def result(self, state: State) -> Tensor:
        """Ids (B, h, w)."""
        return state.codes.unflatten(1, self.grid)

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the hidden ones of ids (B, h, w); a share cos(pi/2 r) is hidden, r uniform (section 3.3)."""
        if self.training:
            labels = drop_labels(labels, self.num_classes, rng)
        codes = tokens.flatten(1)
        chance = torch.rand(len(codes), 1, generator=rng, device=codes.device)
        count = torch.ceil(torch.cos(math.pi / 2 * chance) * self.num_tokens).clamp(min=1)
        rank = torch.rand(codes.shape, generator=rng, device=codes.device).argsort(dim=1).argsort(dim=1)
        hidden = rank < count
        everywhere = torch.arange(self.num_tokens, device=codes.device).expand_as(codes)
        x = self.hidden(codes.masked_fill(hidden, self.vocab_size), labels, everywhere)
        return self.output.loss(x[hidden], codes[hidden])
