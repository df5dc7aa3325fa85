"""The shape of a masked generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from arbench.generators.common.config import HEADS, Grid, as_grid, require
from arbench.registry import unknown_name
from arbench.validation import Limits

# Share of hidden tokens in training: normal around 1, truncated at MIN_MASK_RATIO and 1 (MAR, section 3.3).
MASK_RATIO_DEVIATION = 0.25
MIN_MASK_RATIO = 0.7


@dataclass(frozen=True, kw_only=True)
class MARConfig:
    """Shape of a masked generator. `channels`, `patch_size`, `head_depth`, `head_width` are for head "diffusion",
    `vocab_size` is for head "categorical". `mask_ratio_deviation` and `min_mask_ratio` shape the share of tokens that
    training hides: a normal around 1, truncated to [min_mask_ratio, 1]."""

    encoder_width: int
    encoder_depth: int
    encoder_heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    num_classes: int = 1000
    grid: Grid = 16
    buffer_size: Annotated[int, Limits(least=0)] = 64
    head: str = "diffusion"
    channels: int = 16
    patch_size: int = 1
    head_depth: int = 6
    head_width: int = 1024
    vocab_size: int | None = None
    diffusion_batch_mul: int = 4
    dropout: float = 0.0
    mask_ratio_deviation: float = MASK_RATIO_DEVIATION
    min_mask_ratio: float = MIN_MASK_RATIO

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid))
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            require(width % heads == 0, f"{part}_width {width}: not a multiple of {part}_heads {heads}")
        if self.head not in HEADS:
            raise unknown_name("head", self.head, HEADS)
        require(0 <= self.min_mask_ratio < 1, f"min_mask_ratio {self.min_mask_ratio}: expected 0 or more, below 1")
        require(
            self.mask_ratio_deviation > 0, f"mask_ratio_deviation {self.mask_ratio_deviation}: expected more than 0"
        )
        if self.head == "categorical":
            require(bool(self.vocab_size), f"vocab_size {self.vocab_size}: a categorical head needs 1 or more")
