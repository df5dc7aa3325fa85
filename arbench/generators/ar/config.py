"""The shape of a causal generator."""

from __future__ import annotations

from dataclasses import dataclass

from arbench.generators.common.config import HEADS, Grid, as_grid, require, require_rotary
from arbench.registry import unknown_name

ORDERS = ("raster", "random")


@dataclass(frozen=True, kw_only=True)
class ARConfig:
    """Shape of a causal generator. `vocab_size` is for head "categorical"; `channels`, `patch_size`, `head_depth` and
    `head_width` are for head "diffusion". Without `kv_cache` the same tokens are drawn, each step from the whole
    sequence so far (MAR's Figure 6 has both)."""

    width: int
    depth: int
    heads: int
    num_classes: int = 1000
    grid: Grid = 16
    vocab_size: int | None = 16384
    order: str = "raster"
    head: str = "categorical"
    channels: int = 16
    patch_size: int = 1
    head_depth: int = 6
    head_width: int = 1024
    diffusion_batch_mul: int = 4
    dropout: float = 0.0
    kv_cache: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid))
        require_rotary(self.width, self.heads)
        if self.order not in ORDERS:
            raise unknown_name("order", self.order, ORDERS)
        if self.head not in HEADS:
            raise unknown_name("head", self.head, HEADS)
        if self.head == "categorical":
            require(bool(self.vocab_size), f"vocab_size {self.vocab_size}: a categorical head needs 1 or more")
