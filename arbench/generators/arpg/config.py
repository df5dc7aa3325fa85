"""The shape of ARPG, and the settings of drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from arbench.generators.common.config import Grid, as_grid, require, require_rotary
from arbench.settings import CFG_SCHEDULE, REVEAL_SCHEDULE, CategoricalSampling, MaskedSampling

# Share of the tokens that is hidden after `step` of `num_iter` iterations (release).
HIDDEN_SHARES: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda step, num_iter: math.cos(math.pi / 2 * step / num_iter),
    "arccos": lambda step, num_iter: math.acos(step / num_iter) / (math.pi / 2),
}


@dataclass(frozen=True, kw_only=True)
class ARPGSampling(MaskedSampling, CategoricalSampling):
    """Settings of ARPG: iterations, the curve along which the hidden share falls, guidance, and the draw of codes."""

    cfg_schedule: str = CFG_SCHEDULE.field("linear")
    reveal_schedule: str = REVEAL_SCHEDULE.field("cosine")

    @property
    def guided(self) -> bool:
        """Logits are guided at every scale; that of 1 gives the conditional ones (release)."""
        return self.cfg_scale != 1

    def hidden_share(self, step: int, num_iter: int) -> float:
        """Share of the tokens that stays hidden after `step` of `num_iter` iterations."""
        return HIDDEN_SHARES[self.reveal_schedule](step, num_iter)


@dataclass(frozen=True, kw_only=True)
class ARPGConfig:
    """Shape of a generator in two passes of `depth` / 2 blocks each.

    Without `kv_cache` the same tokens are drawn, the first pass running over the whole sequence at every step. The
    rotary entries tell where tokens are relative to one another, and the class token has none: where a token is in the
    image has to be learned from what it sees. `sinusoids` adds it to every token, for trainings too short for that; the
    released models are without.
    """

    head: ClassVar[str] = "categorical"

    width: int
    depth: int
    heads: int
    num_classes: int = 1000
    grid: Grid = 16
    vocab_size: int = 16384
    dropout: float = 0.0
    kv_cache: bool = True
    sinusoids: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid))
        require_rotary(self.width, self.heads)
        require(self.depth % 2 == 0, f"depth {self.depth}: expected an even number, half of it for each pass")
