"""What the steps of a static state read in fewer pieces: weights that meet the same input, rotary entries of all parts.

A step is launched from a recording, where fewer and larger products cost less; the memory of a copy is the price.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class JoinedWeights:
    """Groups of weights (out, in) of products that read the same, each group one under the other in one tensor."""

    def __init__(self, groups: Iterable[Sequence[Tensor]]) -> None:
        self._groups = [list(group) for group in groups]
        self.joined = [torch.cat(group) for group in self._groups]  # (sum of out, in) a group

    def refresh(self) -> None:
        """Read the weights again, which may have been changed where they are."""
        pairs = list(zip(self.joined, self._groups, strict=True))
        parts = [part for joined, group in pairs for part in joined.split([len(weight) for weight in group])]
        torch._foreach_copy_(parts, [weight for group in self._groups for weight in group])


def joined_product(x: Tensor, joined: Tensor) -> Tensor:
    """(.., in) -> (.., sum of out), taking what mixed precision gives a layer."""
    return F.linear(x.to(joined.dtype), joined)


def joined_rotaries(rotary_table: Tensor) -> Tensor:
    """Rotary entries (1 + N, W, 2) -> (3, 1 + N, W, 2) of queries, keys and values, which do not turn."""
    unturned = torch.stack((torch.ones_like(rotary_table[..., 0]), torch.zeros_like(rotary_table[..., 0])), dim=-1)
    return torch.stack((rotary_table, rotary_table, unturned))
