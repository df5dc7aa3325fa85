"""Which images of a reference the balls around others hold, and what share of them when those others are drawn anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS_KEPT = 16  # of a redraw about 0.63 of the images are left: fewer than 3 of 16 neighbours in 1 of 10⁵ cases


@dataclass(frozen=True, kw_only=True)
class Balls:
    """Balls around N images, each reaching one of its neighbours, and the `count` images of a reference in them.

    `nearest` (N, S) are the other images, nearest first. Pair p says that image `held[p]` of the reference is as near
    to image `holder[p]` as that one's neighbour `rank[p]`, counted from 0.
    """

    nearest: np.ndarray
    held: np.ndarray
    holder: np.ndarray
    rank: np.ndarray
    count: int

    @classmethod
    def of(cls, nearest: Tensor, reaches: Tensor, blocks: Iterable[Tensor]) -> Balls:
        """From the neighbours (N, S), squared distances to them, and `blocks` (b, N) of those from the reference."""
        held: list[Tensor] = []
        holder: list[Tensor] = []
        rank: list[Tensor] = []
        count = 0
        for block in blocks:
            query, centre = (block <= reaches[:, -1]).nonzero(as_tuple=True)
            held.append(query + count)
            holder.append(centre)
            rank.append((block[query, centre, None] > reaches[centre]).sum(dim=1))
            count += len(block)
        pairs = [torch.cat(part).cpu().numpy() for part in (held, holder, rank)]
        return cls(nearest=nearest.cpu().numpy(), held=pairs[0], holder=pairs[1], rank=pairs[2], count=count)

    def share(self, kept: np.ndarray, neighbours: int) -> float:
        """What share of the reference the images `kept` (N,) hold, each reaching its k-th neighbour among them.

        Where so few neighbours are kept, to the last that is known.
        """
        reached = kept[self.nearest].cumsum(axis=1) >= neighbours
        reach = np.where(reached[:, -1], reached.argmax(axis=1), self.nearest.shape[1] - 1)
        holds = kept[self.holder] & (self.rank <= reach[self.holder])
        found = np.zeros(self.count, dtype=bool)
        found[self.held[holds]] = True
        return float(found.mean())
