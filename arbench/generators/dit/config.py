"""The shape of a diffusion transformer, and the settings of drawing from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from arbench.generators.common.config import Grid, as_grid, require
from arbench.settings import CFG_SCHEDULE, DiffusionSampling


@dataclass(frozen=True, kw_only=True)
class JointSampling(DiffusionSampling):
    """Settings of a DiT: those of a diffusion head; guidance is constant, for nothing is known before anything else."""

    cfg_schedule: str = CFG_SCHEDULE.field("constant")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cfg_schedule == "constant", f"cfg_schedule {self.cfg_schedule!r}: expected 'constant' for DiT")
        require(self.head_sampler != "disa", "head_sampler 'disa': its steps fall over iterations; DiT has one")
        require(self.cfg_interval == -1, f"cfg_interval {self.cfg_interval}: DiT has one step; expected -1")


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a diffusion transformer over a token grid of `channels` latents in patches of `patch_size`."""

    head: ClassVar[str] = "joint"  # how its tokens are drawn: all of them by one diffusion

    width: int
    depth: int
    heads: int
    num_classes: int = 1000
    grid: Grid = 16
    channels: int = 16
    patch_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid))
        require(self.width % self.heads == 0, f"width {self.width}: not a multiple of heads {self.heads}")
        require(self.width % 4 == 0, f"width {self.width}: the positions need a multiple of 4")
