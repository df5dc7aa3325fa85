"""What of a generation is revealed so far: an observer of `generate` that keeps the tokens as they come."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arbench.generators.common.tokens import patch_side, patchify, unpatchify
from arbench.protocols import Generator, Step


class Canvas:
    """The tokens of B images under way; at hidden places stand those of `blank`.

    Given as `observe` to `arbench.generate`, its `tokens` are after each step what the generator would have as result
    if it stopped there, and after the last step its result.
    """

    def __init__(self, generator: Generator, batch: int, blank: Tensor) -> None:
        """`blank` are the tokens of one image, ids (1, h, w) or scaled latents (1, C, H, W)."""
        self.grid, self.kind = generator.grid, generator.kind
        self.patch_size = patch_side(generator)
        sequence = blank.flatten(1) if self.kind == "discrete" else patchify(blank, self.patch_size)
        self._tokens = sequence.repeat(batch, *[1] * (sequence.dim() - 1))  # (B, N[, C])
        self.hidden = torch.ones(batch, math.prod(self.grid), dtype=torch.bool, device=blank.device)  # raster order
        self.steps = 0

    def __call__(self, step: Step, tokens: Tensor) -> None:
        """Take in what a step revealed: (B, n) codes or (B, n, C) continuous tokens at its places."""
        self.hidden.scatter_(1, step.positions, False)
        places = step.positions if tokens.dim() == 2 else step.positions.unsqueeze(-1).expand_as(tokens)
        self._tokens.scatter_(1, places, tokens.to(self._tokens.dtype))
        self.steps = step.index + 1

    @property
    def tokens(self) -> Tensor:
        """As `generate` gives them: ids (B, h, w) or scaled latents (B, C, H, W)."""
        if self.kind == "discrete":
            return self._tokens.unflatten(1, self.grid)
        return unpatchify(self._tokens, self.grid, self.patch_size)
