"""The shape of a parallel generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

from arbench.generators.ar.config import ARConfig
from arbench.generators.common.config import as_grid, require
from arbench.registry import unknown_name

GROUP_ORDERS = ("regions", "raster")


def regions_side(grid: tuple[int, int], parallel: int) -> int:
    """sqrt(n), into as many regions the rows and the columns are cut. Raises ValueError where they cannot be."""
    side = math.isqrt(parallel)
    require(side * side == parallel, f"parallel {parallel}: expected a square number (4 or 16 in the paper)")
    rows, columns = grid
    require(rows % side == 0 and columns % side == 0, f"grid {grid}: not divisible into {side} x {side} regions")
    return side


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
            regions_side(as_grid(self.grid), self.num_regions)
        else:
            require(self.regions is None, f"regions {self.regions}: the raster order has none")

    @property
    def num_regions(self) -> int:
        """Regions that the grid is cut into: n unless `regions` says otherwise."""
        return self.regions or self.parallel
