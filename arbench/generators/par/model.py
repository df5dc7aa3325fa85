"""PAR: the causal generator that draws n distant tokens at once (arXiv:2412.15119)."""

from __future__ import annotations

import torch
from torch import Tensor

from arbench.generators.ar.model import AR
from arbench.generators.par.config import PARConfig, regions_side
from arbench.machine.transfer import constant


def regions_order(grid: tuple[int, int], parallel: int) -> Tensor:
    """(N,) raster index of the k-th token: over the places inside a region, and at each place over the regions.

    The grid is cut into sqrt(n) x sqrt(n) regions (section 3.2), both walked row by row. Raises ValueError where it
    cannot be cut so.
    """
    side, (rows, columns) = regions_side(grid, parallel), grid
    raster = torch.arange(rows * columns).view(side, rows // side, side, columns // side)
    return raster.permute(1, 3, 0, 2).flatten()


class PAR(AR):
    """Causal generator: n tokens one by one (unless `sequential_start` is off), then n at a time."""

    method = "par"

    def __init__(self, config: PARConfig) -> None:
        super().__init__(config, parallel=config.parallel)
        self.config: PARConfig = config
        if config.parallel > 1:
            self.singles = config.parallel if config.sequential_start else 0

    def order_on(self, device: torch.device) -> Tensor:
        if self.config.group_order == "raster":
            return super().order_on(device)
        return constant(regions_order, self.grid, self.config.num_regions, device=device)

    @property
    def group_attention(self) -> bool:
        return self.config.group_attention
