"""PAR: the causal generator that draws n distant tokens at once (arXiv:2412.15119)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arbench.generators.ar import AR, ARConfig
from arbench.generators.base import as_grid, require
from arbench.generators.causal import group_mask
from arbench.registry import unknown_name

GROUP_ORDERS = ("regions", "raster")


def regions_order(grid: tuple[int, int], parallel: int) -> Tensor:
    """(N,) raster index of the k-th token: over the places inside a region, and at each place over the regions.

    The grid is cut into sqrt(n) x sqrt(n) regions (section 3.2), both walked row by row. Raises ValueError where it
    cannot be cut so.
    """
    side = math.isqrt(parallel)
    require(side * side == parallel, f"parallel {parallel}: expected a square number (4 or 16 in the paper)")
    rows, columns = grid
    require(rows % side == 0 and columns % side == 0, f"grid {grid}: not divisible into {side} x {side} regions")
    raster = torch.arange(rows * columns).view(side, rows // side, side, columns // side)
    return raster.permute(1, 3, 0, 2).flatten()


@dataclass(frozen=True, kw_only=True)
class PARConfig(ARConfig):
    """Shape of a parallel generator.

    The paper's Table 4 ablates four choices: `group_order` "raster" takes n neighbours instead of n distant tokens;
    `group_attention` False keeps attention causal inside a group; `sequential_start` False draws the first n tokens at
    once too, from the class token and the learnable ones; `regions`, where it is not n, cuts the grid differently from
    the number of tokens a step, so that `parallel` 1 with 4 regions takes distant tokens one by one.
    """

    parallel: int = 4
    group_order: str = "regions"
    group_attention: bool = True
    sequential_start: bool = True
    regions: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.order == "raster", f"order {self.order!r}: PAR has its own order, set by group_order")
        if self.group_order not in GROUP_ORDERS:
            raise unknown_name("group_order", self.group_order, GROUP_ORDERS)
        tokens = math.prod(as_grid(self.grid))
        require(self.parallel >= 1, f"parallel {self.parallel}: expected 1 or more")
        require(tokens % self.parallel == 0, f"parallel {self.parallel}: does not divide {tokens} tokens")
        if self.group_order == "regions":
            regions_order(as_grid(self.grid), self.num_regions)
        else:
            require(self.regions is None, f"regions {self.regions}: the raster order has none")

    @property
    def num_regions(self) -> int:
        """Regions that the grid is cut into: n unless `regions` says otherwise."""
        return self.regions or self.parallel


class PAR(AR):
    """Causal generator: n tokens one by one (unless `sequential_start` is off), then n at a time."""

    method = "par"

    def __init__(self, config: PARConfig) -> None:
        super().__init__(config, parallel=config.parallel)
        self.config: PARConfig = config
        if config.parallel > 1:
            self.singles = config.parallel if config.sequential_start else 0

    @property
    def order(self) -> Tensor:
        """(N,) raster index of the k-th generated token."""
        if self.config.group_order == "raster":
            return torch.arange(self.num_tokens)
        return regions_order(self.grid, self.config.num_regions)

    def attention_mask(self, length: int) -> Tensor:
        return group_mask(length, self.parallel, self.singles, self.config.group_attention)

    def step_mask(self, count: int, length: int) -> Tensor | None:
        if self.config.group_attention or count == 1:
            return None
        return torch.ones(count, length, dtype=torch.bool).tril(length - count)
